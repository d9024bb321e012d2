"""What is counted of the lives of Machines: once for each thing that happens, however many passes it takes."""

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.gpu_provisioner.known import Known
from kaito_operator.gpu_provisioner.lives import Lives
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.plan import Plan
from tests.kaito_operator.gpu_provisioner.test_plan import LIMITS, NOON, STEPS, a_pool, seen, status
from tests.support.machines import a_node


class Counted:
    """The metrics, and what has moved them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.lives = Lives(self.registry)

    def passes(self, found: Observed) -> Plan:
        todo = plan(found, NOON, cluster="prod", limits=LIMITS)
        self.lives.done(found, todo, NOON)
        return todo

    def moved(self) -> dict[str, float]:
        """Every count that is not 0, with its labels; of histograms the count."""
        samples = (each for metric in self.registry.collect() for each in metric.samples)
        counts = (each for each in samples if each.name.endswith(("_total", "_count")) and each.value)
        return {"/".join([each.name.removeprefix("karpenter_"), *each.labels.values()]): each.value for each in counts}


def a_joined_node(**more: Any) -> dict[str, Any]:
    node = a_node(**more)
    node["metadata"]["creationTimestamp"] = "2026-01-02T11:00:00Z"
    return node


def test_a_machine_is_taken_on_with_its_finalizer() -> None:
    counted = Counted()
    counted.passes(seen(Known(), finalizer=False))
    counted.passes(seen(Known()))
    assert counted.moved() == {"nodeclaims_created_total": 1}


def test_a_node_is_counted_when_it_is_registered_and_not_again() -> None:
    counted = Counted()
    node = a_joined_node()
    counted.passes(seen(a_pool("Succeeded"), node, status=status("MachineLaunched")))
    counted.passes(seen(a_pool("Succeeded"), node, status=status(*STEPS)))
    assert counted.moved() == {"nodes_created_total": 1}


def test_a_drained_node_is_counted_at_the_first_try_to_delete_its_pool() -> None:
    counted = Counted()
    gone = {"deleting": True, "status": {**status(*STEPS), "nodeName": "n"}}
    counted.passes(seen(a_pool("Succeeded"), a_joined_node(), **gone))
    refused = a_pool("Succeeded").no_delete(Refusal("CloudUnavailable", "no", 0.0), now=NOON.replace(hour=11))
    counted.passes(seen(refused, a_joined_node(), **gone))
    assert counted.moved() == {"nodes_drained_total": 1, "nodes_lifetime_duration_seconds_count": 1}
    assert counted.registry.get_sample_value("karpenter_nodes_lifetime_duration_seconds_sum") == 3600


def test_a_machine_ends_when_its_finalizer_goes() -> None:
    counted = Counted()
    absent = Known(absent_since=NOON.replace(hour=11))
    counted.passes(seen(absent, deleting=True, status={**status(*STEPS), "nodeName": "n"}))
    assert counted.moved() == {
        "nodeclaims_terminated_total": 1,
        "nodeclaims_termination_duration_seconds_count": 1,
        "nodes_terminated_total": 1,
    }
    total = counted.registry.get_sample_value("karpenter_nodeclaims_termination_duration_seconds_sum")
    assert total == 8 * 3600  # the builder's Machine is deleted at 4, and it is noon


@pytest.mark.parametrize(
    ("known", "machine", "reason"),
    [
        (a_pool("Creating", asked=1201), {"status": status(reason="Creating")}, "launch_timeout"),
        (
            a_pool("Succeeded", asked=3600),
            {"status": status("MachineLaunched", reason="NodeNotFound", since=901)},
            "registration_timeout",
        ),
        (a_pool("Failed", problem=Refusal("SubnetFull", "no", 0.0)), {"status": status()}, "launch_failed"),
        (a_pool("Deleting"), {"status": status(*STEPS)}, "garbage_collected"),
    ],
)
def test_a_pool_that_is_given_up_for_another_is_counted_by_its_reason(
    known: Known, machine: dict[str, Any], reason: str
) -> None:
    counted = Counted()
    todo = counted.passes(seen(known, **machine))
    (report,) = todo.report
    counted.passes(seen(known, status=report.status))
    assert counted.moved() == {f"nodeclaims_disrupted_total/{reason}": 1}


def test_a_node_that_was_long_not_ready_is_counted_as_unhealthy() -> None:
    counted = Counted()
    node = a_joined_node(ready=False)
    node["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-02T11:00:00Z"
    found = seen(a_pool("Succeeded"), node, status=status(*STEPS))
    todo = plan(found, NOON, cluster="prod", limits=replace(LIMITS, repair=600))
    counted.lives.done(found, todo, NOON)
    assert counted.moved() == {
        "nodeclaims_disrupted_total/unhealthy": 1,
        "nodeclaims_unhealthy_disrupted_total/Ready": 1,
    }


def test_evictions_are_counted_by_their_answer() -> None:
    counted = Counted()
    for code in (201, 429, 429):
        counted.lives.requested("POST", "pods/eviction", code)
    counted.lives.requested("POST", "events", 201)
    assert counted.moved() == {"nodes_eviction_requests_total/201": 1, "nodes_eviction_requests_total/429": 2}
