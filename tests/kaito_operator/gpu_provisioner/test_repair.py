"""A node that has not been Ready for long is replaced, unless so many are not Ready that it is not its own fault."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito_operator.fleet import Fleet
from kaito_operator.gpu_provisioner.agent_pool import owner_tags
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.known import Known
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.observe import observe
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.mirror import Mirror
from kaito_operator.plan import DeleteInCloud, Key, Plan
from tests.support.machines import a_machine, a_node

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME = "ws0123456789"
OWNER = owner_tags(a_machine(), cluster="prod")
POOL = AgentPool(NAME, "Succeeded", etag="e1", tags=OWNER, asked_at=NOON - timedelta(hours=2))
LIMITS = Limits(gone=30, launch=1200, registration=900, repair=600)


def stamp(seconds: float) -> str:
    return (NOON - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def since(node: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    if seconds is not None:
        node["status"]["conditions"][0]["lastTransitionTime"] = stamp(seconds)
    return node


def planned(
    *, unready_for: float | None, others: int = 9, sick: int = 0, limits: Limits = LIMITS, registered: bool = True
) -> Plan:
    """The plan for a Machine whose node is not Ready, among others that are, and some that are not."""

    class Knows:
        def known(self, name: str) -> Known:
            return Known(POOL)

    status = {
        "conditions": [
            {"type": t, "status": "True" if registered else "False", "lastTransitionTime": stamp(3600)}
            for t in ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")
        ]
    }
    mirror = Mirror()
    mirror.put(a_machine(finalizer=True, status=status, labels={"node.kubernetes.io/instance-type": "x"}))
    mirror.put(since(a_node(ready=False), unready_for))
    for number in range(others + sick):
        node = a_node(pool=f"other{number}", ready=number >= sick)
        node["metadata"]["uid"] = f"other-{number}"
        mirror.put(node)
    seen = observe(mirror, Key("", NAME), pools=Knows())
    assert seen is not None
    return plan(seen, NOON, cluster="prod", limits=limits)


def reason(todo: Plan) -> str:
    (report,) = todo.report
    return next(str(c["reason"]) for c in report.status["conditions"] if c["type"] == "Ready")


def test_after_ten_minutes_the_pool_goes_and_another_is_asked_for() -> None:
    todo = planned(unready_for=601)
    assert (todo.cloud, reason(todo)) == ((DeleteInCloud(NAME, OWNER, etag="e1"),), "NodeRepair")


def test_before_that_it_has_time_to_recover_and_is_looked_at_when_that_is_up() -> None:
    todo = planned(unready_for=400)
    assert (todo.cloud, reason(todo), todo.look_again) == ((), "NodeNotReady", 200)


def test_a_node_of_which_nobody_knows_since_when_is_left_alone() -> None:
    assert planned(unready_for=None).cloud == ()


def test_a_node_that_never_was_ready_has_the_time_that_registration_has() -> None:
    assert planned(unready_for=601, registered=False).cloud == ()


def test_without_a_limit_nothing_is_replaced() -> None:
    assert planned(unready_for=99999, limits=replace(LIMITS, repair=None)).cloud == ()


@pytest.mark.parametrize(("others", "sick", "blocked"), [(9, 1, False), (8, 3, True), (0, 0, False), (2, 1, True)])
def test_of_more_than_a_fifth_of_all_nodes_none_is_replaced(others: int, sick: int, blocked: bool) -> None:
    todo = planned(unready_for=601, others=others, sick=sick)
    assert (todo.cloud == ()) == blocked
    assert reason(todo) == ("NodeRepairBlocked" if blocked else "NodeRepair")
    assert todo.look_again == (300 if blocked else None)


@pytest.mark.parametrize(("nodes", "unready", "ails"), [(1, 1, False), (5, 1, False), (5, 2, True), (6, 2, False)])
def test_the_fifth_is_rounded_up(nodes: int, unready: int, ails: bool) -> None:
    assert Fleet(nodes, unready).ails is ails
