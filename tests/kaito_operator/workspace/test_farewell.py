"""A deleted Workspace: the workload ends, then machines and reservations go, then the finalizer; nothing is applied."""

from datetime import timedelta
from typing import Any

from kaito_operator.plan import Finalizer, Selection
from kaito_operator.workspace.machines import machine_name
from tests.support.builders import (
    NOON,
    UID,
    a_container,
    a_machine,
    a_node,
    a_pod,
    a_ready_machine,
    a_workspace,
    rolled_out,
    stored,
)
from tests.support.planning import applied, conditions, deleted, planned

FIRST = machine_name(UID, slot=0, attempt=1)
GONE = a_workspace(deleted_at=NOON)
NODES = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
RUNNING = a_pod(node="n", phase="Running", containers=[a_container(ready=True, started=True)])


def workload() -> list[dict[str, Any]]:
    todo = planned(a_workspace(), *NODES)
    return [stored(applied(todo, "Service")[0]), rolled_out(applied(todo, "Deployment")[0])]


def test_first_the_workload_is_let_end() -> None:
    todo = planned(GONE, *NODES, *workload(), RUNNING)
    assert deleted(todo) == ["Deployment team/chat", "Service team/chat"]
    told = "waits for Pod chat-6d9f-x2x4z to end"
    assert conditions(todo)["WorkspaceDeleting"] == ("True", "workspaceDeleted", told)
    assert conditions(todo)["Ready"] == ("False", "workspaceDeleted", told)
    assert todo.look_again == 91.0


def test_then_its_machines_go() -> None:
    todo = planned(GONE, *NODES)
    assert deleted(todo) == [f"Machine {FIRST}"]
    assert all(step.gives_up for step in todo.delete)
    assert conditions(todo)["WorkspaceDeleting"][2] == f"waits for Machine {FIRST} to be gone"


def test_a_machine_is_deleted_once() -> None:
    todo = planned(GONE, a_machine(FIRST, deleting=True))
    assert todo.delete == ()
    assert todo.finalizer is Finalizer.KEEP


def test_a_machine_without_a_node_goes_at_once() -> None:
    assert deleted(planned(GONE, a_machine(FIRST))) == [f"Machine {FIRST}"]


def test_pods_of_a_dead_node_are_not_waited_for() -> None:
    dead = a_node("n", held_by="chat", pool=FIRST, ready=False)
    assert deleted(planned(GONE, a_ready_machine(FIRST, node="n"), dead, RUNNING)) == [f"Machine {FIRST}"]


def test_pods_that_do_not_end_are_waited_for_no_longer_than_90_seconds() -> None:
    todo = planned(GONE, *NODES, RUNNING, now=NOON + timedelta(seconds=91))
    assert deleted(todo) == [f"Machine {FIRST}"]


def test_reserved_nodes_are_given_back_when_their_pods_have_ended() -> None:
    own = a_workspace(instance_type="", deleted_at=NOON)
    node = a_node("n", held_by="chat", labelled_by_us=True)
    assert planned(own, node, RUNNING).apply == ()
    todo = planned(own, node)
    assert applied(todo, "Node") == [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {}}}]
    assert todo.finalizer is Finalizer.KEEP


def test_the_finalizer_goes_last_and_only_if_a_live_look_finds_no_machine() -> None:
    todo = planned(GONE)
    owned = {"kaito.sh/workspace": "chat", "kaito.sh/workspacenamespace": "team"}
    assert todo.finalizer is Finalizer.DROP
    assert todo.gone_in_cluster == (Selection("karpenter.sh/v1alpha5", "Machine", owned),)
    assert (todo.apply, todo.delete, todo.report) == ((), (), ())


def test_without_our_finalizer_the_deletion_is_none_of_our_business() -> None:
    assert not planned(a_workspace(deleted_at=NOON, finalizer=False), *NODES).writes


def test_a_workspace_that_cannot_be_read_can_be_deleted() -> None:
    unreadable = {**GONE, "resource": 5, "inference": [], "status": {"conditions": "none", "workerNodes": 7}}
    assert deleted(planned(unreadable, *NODES)) == [f"Machine {FIRST}"]


def test_objects_of_somebody_else_are_not_deleted() -> None:
    theirs = [{**each, "metadata": {**each["metadata"], "ownerReferences": []}} for each in workload()]
    assert planned(GONE, *theirs).delete == ()


def test_how_far_it_had_come_stays_readable() -> None:
    told = planned(a_workspace(), *NODES).report[0].status
    found = conditions(planned(a_workspace(deleted_at=NOON, status=told), *NODES))
    assert found["ResourceReady"] == ("True", "workspaceResourceStatusSuccess", "1 of 1 nodes are ready")
