"""What holds for every history of a Workspace that tunes: it is trained once, and then served or over."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kaito_operator.workspace.test_properties import ACTIONS, CASES, one_pass, planned, total
from tests.support.builders import a_node, a_workspace
from tests.support.model_cluster import ModelCluster

pytestmark = pytest.mark.properties

JOBS: dict[str, Callable[[ModelCluster], object]] = {
    **ACTIONS,
    "the Job goes on": ModelCluster.work_off_jobs,
    "the Job fails": ModelCluster.fail_jobs,
    "somebody deletes the Job": lambda c: c.lose("Job"),
    "somebody deletes the ConfigMap": lambda c: c.lose("ConfigMap"),
}
LONG = 500
"""Cases of the property that takes ten times as long as the others."""
HISTORIES = st.lists(st.sampled_from(sorted(JOBS)), max_size=14)


@st.composite
def tunings(draw: st.DrawFn) -> ModelCluster:
    """A new Workspace that tunes, and serves the result or not, on a machine of its own or of the user's."""
    tuning: dict[str, Any] = {
        "preset": {"name": "smollm2-135m-instruct"},
        "method": draw(st.sampled_from(["lora", "QLoRA"])),
        "input": {"urls": ["https://example.com/rows.jsonl"]},
        "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
        "serve": draw(st.booleans()),
    }
    size = draw(st.sampled_from(["Standard_D2s_v5", ""]))
    workspace = a_workspace(tuning=tuning, instance_type=size, finalizer=draw(st.booleans()))
    return ModelCluster(workspace, *([a_node("own")] if draw(st.booleans()) or not size else []))


def settle(cluster: ModelCluster) -> None:
    """Passes in turn with a world that works, until neither has anything to do."""
    quiet = 0
    for _ in range(60):
        cluster.provision()
        cluster.work_off_jobs()
        cluster.roll_out()
        cluster.set_nodes_ready(True)
        cluster.later(31)
        todo = one_pass(cluster)
        if todo is None:
            return
        quiet = 0 if todo.writes else quiet + 1
        if quiet == 3:
            return
    raise AssertionError("it does not come to rest")


@CASES
@given(cluster=tunings(), history=HISTORIES)
def test_after_any_history_it_is_tuned_and_served_or_over(cluster: ModelCluster, history: list[str]) -> None:
    for action in history:
        JOBS[action](cluster)
        assert len(cluster.all("Job")) <= 1
    settle(cluster)
    if total(cluster) == ("False", "TooFewNodes"):
        assert not cluster.all("Node")
        assert not (cluster.workspace or {})["resource"]["instanceType"]
        return
    if total(cluster) == ("False", "DataInvalid"):
        assert cluster.all("Machine") == [], "nobody pays for a node on which nothing will run"
        return
    assert total(cluster) == ("True", "workspaceReady")
    serves = (cluster.workspace or {})["tuning"]["serve"]
    assert [bool(cluster.all(kind)) for kind in ("Deployment", "Service")] == [serves, serves]
    assert serves or cluster.all("Machine") == []


@CASES
@given(cluster=tunings(), history=HISTORIES)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(cluster: ModelCluster, history: list[str]) -> None:
    for action in history:
        JOBS[action](cluster)
    todo = one_pass(cluster)
    if todo is not None and todo.delete:
        one_pass(cluster)  # that something is gone is news
    again = planned(cluster)
    assert again is not None
    assert again.summary() == "nothing to do"


@settings(CASES, max_examples=LONG)
@given(cluster=tunings(), history=HISTORIES, after=HISTORIES)
def test_what_was_tuned_is_never_trained_again(cluster: ModelCluster, history: list[str], after: list[str]) -> None:
    for action in history:
        JOBS[action](cluster)
    settle(cluster)
    if total(cluster) != ("True", "workspaceReady"):
        return
    for action in after:
        JOBS[action](cluster)
        todo = planned(cluster)
        assert todo is not None
        assert [step for step in todo.apply if step.manifest["kind"] == "Job"] == []


@CASES
@given(cluster=tunings(), before=HISTORIES, after=HISTORIES)
def test_a_deleted_workspace_goes_and_leaves_nothing(
    cluster: ModelCluster, before: list[str], after: list[str]
) -> None:
    for action in before:
        JOBS[action](cluster)
    cluster.ask_for_deletion()
    for action in after:
        todo = planned(cluster)
        assert todo is None or {step.manifest["kind"] for step in todo.apply} <= {"Node"}
        JOBS[action](cluster)
    settle(cluster)
    assert cluster.workspace is None
    assert cluster.all("Machine") == []


def test_the_cases_are_counted(count_cases: Callable[[str, int], None]) -> None:
    count_cases("tuning properties", 3 * CASES.max_examples + LONG)
