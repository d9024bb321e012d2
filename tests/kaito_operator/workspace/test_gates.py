"""The gates of a plan in their order: the first that is closed names the cause, and what is behind it waits."""

from collections.abc import Mapping
from typing import Any

import pytest

from kaito_operator.plan import Finalizer
from kaito_operator.workspace.machines import machine_name
from presets.fit import smallest
from tests.support.builders import (
    NOON,
    UID,
    a_container,
    a_machine,
    a_node,
    a_pod,
    a_ready_machine,
    a_workspace,
    condition,
    machine_conditions,
    rolled_out,
    stored,
)
from tests.support.planning import CATALOG, applied, conditions, planned

FIRST, SECOND = (machine_name(UID, slot=slot, attempt=1) for slot in (0, 1))
WAITS = ("Unknown", "Waiting", "waits for WorkspaceReady")
NOON_TEXT = "2026-01-02T12:00:00Z"


def statuses(found: Mapping[str, tuple[str, str, str]]) -> dict[str, str]:
    return {type: status for type, (status, _, _) in found.items()}


def workload(workspace: Mapping[str, Any], *others: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Service and Deployment as they are once the API server and the Deployment's controller have had them."""
    todo = planned(workspace, *others)
    service = stored(applied(todo, "Service")[0])
    service["spec"] = {**service["spec"], "clusterIP": "10.96.0.7"}
    return [service, rolled_out(applied(todo, "Deployment")[0])]


def test_a_mistaken_workspace_buys_nothing_and_gets_no_finalizer() -> None:
    todo = planned(a_workspace(preset="falcon-40b", instance_type="Standard_NC6s_v3", finalizer=False))
    assert (todo.apply, todo.delete, todo.finalizer) == ((), (), Finalizer.KEEP)
    found = conditions(todo)
    assert found["WorkspaceReady"][:2] == ("False", "DoesNotFit")
    assert found["Ready"] == found["WorkspaceReady"]
    assert found["MachineReady"] == found["ResourceReady"] == found["InferenceReady"] == WAITS


def test_a_mistake_does_not_take_away_what_runs() -> None:
    mistaken = a_workspace(preset="no-such-preset")
    todo = planned(mistaken, a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST))
    assert (todo.apply, todo.delete) == ((), ())


UNSUPPORTED = {
    "more than one machine": a_workspace(
        inference={
            "preset": {"name": "llama-2-13b", "accessMode": "private", "presetOptions": {"image": "r.io/a/b:1"}}
        },
        instance_type="Standard_NC24ads_A100_v4",
        count=2,
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_carried_out_yet_says_so_and_buys_nothing(case: str) -> None:
    todo = planned(UNSUPPORTED[case])
    status, reason, message = conditions(todo)["WorkspaceReady"]
    assert (status, reason) == ("False", "NotYetSupported")
    assert case in message
    assert todo.apply == ()
    sizes = smallest(CATALOG.model("llama-2-13b"), 1, catalog=CATALOG)
    assert sizes
    assert all(f"such as {sizes[0]}" in message and size in message for size in sizes)


def test_all_missing_machines_are_asked_for_at_once_after_the_finalizer() -> None:
    todo = planned(a_workspace(count=2, finalizer=False))
    assert todo.finalizer is Finalizer.ADD
    assert [m["metadata"]["name"] for m in applied(todo, "Machine")] == [FIRST, SECOND]
    assert all(step.buys and step.uid is None for step in todo.apply)
    told = "2 Machines of Standard_D2s_v5 are asked for"
    assert conditions(todo) == {
        "MachineReady": ("Unknown", "CreateMachinePending", told),
        "ResourceReady": ("Unknown", "Waiting", "waits for MachineReady"),
        "InferenceReady": ("Unknown", "Waiting", "waits for ResourceReady"),
        "WorkspaceReady": ("False", "workspacePending", told),
        "Ready": ("False", "workspacePending", told),
    }


PROGRESS = [
    (0, "Creating", "agent pool Creating", "is asked for: agent pool Creating"),
    (1, "NodeNotFound", "", "is launched"),
    (2, "NodeNotReady", "node n is not Ready", "has registered its node: node n is not Ready"),
]


@pytest.mark.parametrize(("done", "reason", "message", "told"), PROGRESS)
def test_a_machine_on_its_way_says_how_far_it_is(done: int, reason: str, message: str, told: str) -> None:
    todo = planned(a_workspace(), a_machine(FIRST, conditions=machine_conditions(done, reason, message)))
    assert todo.apply == ()
    assert conditions(todo)["MachineReady"] == (
        "Unknown",
        "CreateMachinePending",
        f"Machine {FIRST} (Standard_D2s_v5) {told}",
    )


def test_a_machine_is_not_used_before_its_node_is_seen() -> None:
    todo = planned(a_workspace(), a_ready_machine(FIRST, node="n"))
    assert todo.apply == ()
    assert conditions(todo)["ResourceReady"] == (
        "Unknown",
        "workspaceResourceStatusNotReady",
        "0 of 1 nodes have joined",
    )


def test_service_and_deployment_come_when_the_nodes_are_ready() -> None:
    todo = planned(a_workspace(), a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST))
    assert [step.manifest["kind"] for step in todo.apply] == ["Service", "Deployment"]
    assert statuses(conditions(todo)) == {
        "MachineReady": "True",
        "ResourceReady": "True",
        "InferenceReady": "Unknown",
        "WorkspaceReady": "False",
        "Ready": "False",
    }
    assert todo.report[0].status["workerNodes"] == ["n"]


def test_it_is_ready_when_every_replica_of_what_is_wanted_answers() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    todo = planned(a_workspace(), *nodes, *workload(a_workspace(), *nodes))
    assert todo.apply == ()
    assert set(statuses(conditions(todo)).values()) == {"True"}
    assert todo.report[0].status["endpoint"] == "http://10.96.0.7"


def test_an_address_where_nobody_has_answered_yet_is_not_told() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    service, deployment = workload(a_workspace(), *nodes)
    loading = {**deployment, "status": {}}
    begun = a_workspace(status=planned(a_workspace(), *nodes).report[0].status)
    assert planned(begun, *nodes, service, loading).report == (), "the Service alone is no news"
    answers = planned(begun, *nodes, service, deployment).report[0].status
    assert answers["endpoint"] == "http://10.96.0.7"
    moved = {**service, "spec": {**service["spec"], "clusterIP": "10.96.0.8"}}
    stopped = planned(a_workspace(status=answers), *nodes, moved, loading)
    assert stopped.report[0].status["endpoint"] == "http://10.96.0.8"
    assert conditions(stopped)["InferenceReady"][0] == "Unknown"


def test_readiness_is_no_latch() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    service, deployment = workload(a_workspace(), *nodes)
    ready = a_workspace(status=planned(a_workspace(), *nodes, service, deployment).report[0].status)
    ended = {"exitCode": 1, "reason": "Error", "message": "loading…\nno such file\n"}
    crashed = a_pod(node="n", phase="Running", containers=[a_container(restarts=2, before=ended)])
    less = {**deployment, "status": {**deployment["status"], "readyReplicas": 0, "availableReplicas": 0}}
    status, reason, message = conditions(planned(ready, *nodes, service, less, crashed))["WorkspaceReady"]
    assert (status, reason) == ("False", "ContainerCrashLoopBackOff")
    assert "exit code 1: no such file" in message


def test_a_rollout_is_not_ready_before_the_controller_has_seen_it() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    service, deployment = workload(a_workspace(), *nodes)
    newer = {**deployment, "metadata": {**deployment["metadata"], "generation": 2}}
    assert conditions(planned(a_workspace(), *nodes, service, newer))["InferenceReady"][0] == "Unknown"


def test_drift_is_repaired_for_exactly_the_object_that_was_seen() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    service, deployment = workload(a_workspace(), *nodes)
    ports = [{**port, "targetPort": 6000} for port in service["spec"]["ports"]]
    bent = {**service, "spec": {**service["spec"], "ports": ports}}
    todo = planned(a_workspace(), *nodes, bent, deployment)
    assert [(step.manifest["kind"], step.uid, step.buys) for step in todo.apply] == [
        ("Service", service["metadata"]["uid"], False)
    ]


def test_what_others_add_is_left_alone() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    service, deployment = workload(a_workspace(), *nodes)
    template = deployment["spec"]["template"]
    sidecar = {"name": "mesh", "image": "mesh:1"}
    spec = {**template["spec"], "containers": [sidecar, *template["spec"]["containers"]]}
    richer = {**deployment, "spec": {**deployment["spec"], "template": {**template, "spec": spec}}}
    assert planned(a_workspace(), *nodes, service, richer).apply == ()


def test_what_is_no_longer_wanted_is_written_away() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    options = {"image": "r.io/own/server:1", "imagePullSecrets": ["pull"]}
    with_secret = a_workspace(inference={"preset": {"name": "smollm2-135m-instruct", "presetOptions": options}})
    service, deployment = workload(with_secret, *nodes)
    without = {"preset": {"name": "smollm2-135m-instruct", "presetOptions": {"image": "r.io/own/server:1"}}}
    todo = planned(a_workspace(inference=without), *nodes, service, deployment)
    assert [step.manifest["kind"] for step in todo.apply] == [*["ControllerRevision"] * 2, "Deployment"]


@pytest.mark.parametrize("kind", ["Service", "Deployment"])
def test_an_object_of_somebody_else_is_named_and_not_touched(kind: str) -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    theirs = next(each for each in workload(a_workspace(uid="another"), *nodes) if each["kind"] == kind)
    todo = planned(a_workspace(), *nodes, theirs)
    assert kind not in {step.manifest["kind"] for step in todo.apply}
    assert conditions(todo)["InferenceReady"][:2] == ("False", "NameTaken")
    assert f"{kind} chat is there already" in conditions(todo)["InferenceReady"][2]


@pytest.mark.parametrize("kind", ["Service", "Deployment"])
def test_what_an_earlier_workspace_of_the_name_left_is_waited_for_while_it_goes(kind: str) -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    theirs = next(each for each in workload(a_workspace(uid="another"), *nodes) if each["kind"] == kind)
    leaving = {**theirs, "metadata": {**theirs["metadata"], "deletionTimestamp": NOON_TEXT}}
    todo = planned(a_workspace(), *nodes, leaving)
    assert kind not in {step.manifest["kind"] for step in todo.apply}
    told = f"{kind} chat of the same name is being deleted, and has to be gone first"
    assert conditions(todo)["InferenceReady"] == ("Unknown", "WorkspaceInferenceStatusPending", told)
    assert todo.look_again == 5.0


def test_the_workload_is_kept_while_a_node_is_not_ready() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    service, deployment = workload(a_workspace(), *nodes)
    down = a_node("n", held_by="chat", pool=FIRST, ready=False)
    todo = planned(a_workspace(), nodes[0], down, service, deployment)
    assert (todo.apply, todo.delete) == ((), ())
    assert conditions(todo)["ResourceReady"] == (
        "False",
        "NodeNotReady",
        "Node n is not Ready: container runtime is down",
    )
    assert conditions(todo)["InferenceReady"][0] == "True"


def test_nothing_is_planned_when_all_is_as_wanted() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    both = workload(a_workspace(), *nodes)
    told = planned(a_workspace(), *nodes, *both).report[0].status
    todo = planned(a_workspace(status=told), *nodes, *both)
    assert not todo.writes
    assert todo.look_again is None


def test_a_status_that_others_wrote_into_is_written_again_once() -> None:
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    both = workload(a_workspace(), *nodes)
    told = planned(a_workspace(), *nodes, *both).report[0].status
    bent = {**told, "workerNodes": ["elsewhere"], "theirs": 1}
    more = {**told, "conditions": [*told["conditions"], condition("Theirs", "True")]}
    assert planned(a_workspace(status=bent), *nodes, *both).report[0].status == told
    assert planned(a_workspace(status=more), *nodes, *both).report == ()


def test_what_turns_together_is_told_once_by_the_last_and_waiting_is_not_told() -> None:
    asked = planned(a_workspace())
    assert asked.events == ()
    told = asked.report[0].status
    nodes = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
    began = planned(a_workspace(status=told), *nodes)
    assert [(e.type, e.reason) for e in began.events] == [("Normal", "workspaceResourceStatusSuccess")]
    both = workload(a_workspace(), *nodes)
    ready = planned(a_workspace(status=began.report[0].status), *nodes, *both)
    assert [(e.type, e.reason) for e in ready.events] == [("Normal", "workspaceReady")]


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    earlier = planned(a_workspace()).report[0].status
    machine = a_machine(FIRST, conditions=machine_conditions(1, "NodeNotFound"))
    later = planned(a_workspace(status=earlier), machine, now=NOON.replace(hour=13)).report[0].status
    assert {c["lastTransitionTime"] for c in later["conditions"]} == {NOON_TEXT}
