"""What holds for every history of a Workspace: found by hypothesis on a model of the cluster."""

from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaito_operator.api.sources import Source
from kaito_operator.plan import Plan
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.plan import plan
from presets.catalog import load_catalog
from tests.support.builders import a_machine, a_node, a_workspace
from tests.support.model_cluster import ModelCluster

pytestmark = pytest.mark.properties

INSTALLATION = Installation("kaito", "1", model_files=Source.BAKED)
PASSES = 40
"""More than any undisturbed Workspace needs."""
CASES = settings(
    max_examples=2500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
Count = Callable[[str, int], None]


def planned(cluster: ModelCluster, *, backwards: bool = False) -> Plan | None:
    """What is planned now; None once the Workspace is gone."""
    seen = cluster.observed(backwards=backwards)
    return plan(seen, cluster.now, catalog=load_catalog(), installation=INSTALLATION) if seen is not None else None


def one_pass(cluster: ModelCluster, *, writes: int | None = None) -> Plan | None:
    """Plans and carries out, the whole of it or only the first ``writes`` writes."""
    todo = planned(cluster)
    if todo is not None:
        for step in islice(cluster.steps(todo), writes):
            step()
            must_not_overbuy(cluster)
    return todo


def must_not_overbuy(cluster: ModelCluster) -> None:
    """Never more Machines than nodes wanted, but for those that others left."""
    if cluster.workspace is not None:
        made = [m for m in cluster.all("Machine") if not m["metadata"]["name"].startswith("left-")]
        assert len(made) <= cluster.workspace["resource"]["count"]


ACTIONS: dict[str, Callable[[ModelCluster], object]] = {
    "pass": one_pass,
    "pass, killed before its first write": lambda c: one_pass(c, writes=0),
    "pass, killed after its first write": lambda c: one_pass(c, writes=1),
    "pass, killed after its second write": lambda c: one_pass(c, writes=2),
    "pass, killed after its third write": lambda c: one_pass(c, writes=3),
    "the provisioner works": ModelCluster.provision,
    "the pods start": ModelCluster.roll_out,
    "the pods crash": ModelCluster.crash,
    "somebody deletes a Machine": lambda c: c.lose("Machine"),
    "somebody deletes the Deployment": lambda c: c.lose("Deployment"),
    "somebody deletes the Service": lambda c: c.lose("Service"),
    "a node vanishes": lambda c: c.lose("Node"),
    "the nodes stop": lambda c: c.set_nodes_ready(False),
    "the nodes come back": lambda c: c.set_nodes_ready(True),
    "somebody edits the adapters": ModelCluster.edit,
    "a minute passes": lambda c: c.later(60),
}
HISTORIES = st.lists(st.sampled_from(sorted(ACTIONS)), max_size=14)


@st.composite
def clusters(draw: st.DrawFn, *, sizes: tuple[str, ...] = ("Standard_D2s_v5", "")) -> ModelCluster:
    """A new Workspace among nodes of all sorts, and perhaps a Machine that somebody left under its name."""
    workspace = a_workspace(
        count=draw(st.integers(1, 3)), instance_type=draw(st.sampled_from(sizes)), finalizer=draw(st.booleans())
    )
    kinds: list[dict[str, Any]] = [
        {},
        {"ready": False},
        {"labels": {}},
        {"held_by": "another"},
        {"instance_type": "Standard_D4s_v5"},
        {"unschedulable": True},
    ]
    fields = draw(st.lists(st.sampled_from(kinds), max_size=3))
    nodes = [a_node(f"own-{index}", **each) for index, each in enumerate(fields)]
    left = [a_machine("left-behind", owner_uid="an-earlier-one")] if draw(st.integers(0, 4)) == 0 else []
    return ModelCluster(workspace, *nodes, *left)


def settle(cluster: ModelCluster) -> list[Plan]:
    """Passes in turn with a world that works, until neither has anything to do. Answers the plans."""
    plans: list[Plan] = []
    for _ in range(PASSES):
        cluster.provision()
        cluster.roll_out()
        cluster.set_nodes_ready(True)
        cluster.later(31)
        todo = one_pass(cluster)
        if todo is None:
            return plans
        plans.append(todo)
        if not todo.writes and len(plans) > 3 and not plans[-2].writes:
            return plans
    raise AssertionError(f"it does not come to rest: {plans[-1].summary()}")


def total(cluster: ModelCluster) -> tuple[str, str]:
    """Status and reason of WorkspaceReady."""
    status = (cluster.workspace or {})["status"]
    found = next(c for c in status["conditions"] if c["type"] == "WorkspaceReady")
    return found["status"], found["reason"]


@CASES
@given(cluster=clusters(), history=HISTORIES)
def test_after_any_history_it_comes_to_rest_ready_or_saying_what_it_lacks(
    cluster: ModelCluster, history: list[str]
) -> None:
    for action in history:
        ACTIONS[action](cluster)
        must_not_overbuy(cluster)
    settle(cluster)
    buys = bool((cluster.workspace or {})["resource"]["instanceType"])
    assert total(cluster) == ("True", "workspaceReady") or (not buys and total(cluster) == ("False", "TooFewNodes"))
    assert len(cluster.all("Machine")) <= (cluster.workspace or {})["resource"]["count"]


@CASES
@given(cluster=clusters(), history=HISTORIES)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(cluster: ModelCluster, history: list[str]) -> None:
    """But for a Machine that was given up: the account has it as lost once it is seen going, a pass later."""
    for action in history:
        ACTIONS[action](cluster)
    todo = one_pass(cluster)
    again = planned(cluster)
    assert todo is not None
    assert again is not None
    if any(step.gives_up for step in todo.delete):
        assert not again.apply + again.delete
        one_pass(cluster)
        again = planned(cluster)
        assert again is not None
    assert again.summary() == "nothing to do"


@CASES
@given(cluster=clusters(), history=HISTORIES)
def test_the_order_in_which_objects_are_seen_does_not_matter(cluster: ModelCluster, history: list[str]) -> None:
    for action in history:
        ACTIONS[action](cluster)
    assert planned(cluster) == planned(cluster, backwards=True)


@CASES
@given(cluster=clusters(), before=HISTORIES, after=HISTORIES)
def test_a_deleted_workspace_goes_and_leaves_nothing_whatever_happens(
    cluster: ModelCluster, before: list[str], after: list[str]
) -> None:
    for action in before:
        ACTIONS[action](cluster)
    held = bool((cluster.workspace or {})["metadata"].get("finalizers"))
    cluster.ask_for_deletion()
    for action in after:
        todo = planned(cluster)
        assert todo is None or {step.manifest["kind"] for step in todo.apply} <= {"Node"}
        ACTIONS[action](cluster)
    settle(cluster)
    assert cluster.workspace is None
    left = [machine["metadata"]["name"] for machine in cluster.all("Machine")]
    assert left == [] or (left == ["left-behind"] and not held)
    assert [n for n in cluster.all("Node") if _held_by_apply(n)] == []


def _held_by_apply(node: dict[str, Any]) -> bool:
    own = [entry["fieldsV1"]["f:metadata"]["f:labels"] for entry in node["metadata"]["managedFields"]]
    return any(own)


@CASES
@given(cluster=clusters(sizes=("Standard_D2s_v5",)))
def test_on_an_undisturbed_way_no_condition_ever_turns_back(cluster: ModelCluster) -> None:
    plans = settle(cluster)
    ways: dict[str, list[str]] = {}
    for todo in plans:
        for report in todo.report:
            for entry in report.status["conditions"]:
                ways.setdefault(entry["type"], []).append(entry["status"])
    rank = {"Unknown": 0, "False": 0, "True": 1}
    for type, statuses in ways.items():
        ranks = [rank[status] for status in statuses]
        assert ranks == sorted(ranks), type
        assert "False" not in statuses or type in ("WorkspaceReady", "Ready")


@given(seconds=st.integers(0, 600))
def test_waiting_ends_when_the_plan_says_so(seconds: int) -> None:
    """What a plan says to look at again is different then: nothing waits for an event that never comes."""
    account = {"slot": 0, "attempt": 2, "losses": 1, "reason": "MachineBackOff", "message": "it went"}
    lost = a_workspace(status={"observedGeneration": 1, "machines": [{**account, "notBefore": "2026-01-02T11:50:30Z"}]})
    cluster = ModelCluster(lost, now=datetime.fromisoformat("2026-01-02T11:50:00+00:00"))
    cluster.later(seconds)
    todo = planned(cluster)
    assert todo is not None
    assert bool(todo.apply) == (seconds >= 30)
    assert (todo.look_again is None) == (seconds >= 30)
    assert todo.look_again is None or todo.look_again in (3.0, 30.0 - seconds)


def test_the_cases_are_counted(count_cases: Count) -> None:
    count_cases("workspace properties", 5 * CASES.max_examples + 100)
