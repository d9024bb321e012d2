"""Which nodes a Workspace takes, which Machines it asks for, and what it gives back."""

from typing import Any

import pytest

from kaito_operator.workspace.machines import machine_name
from tests.support.builders import (
    UID,
    a_machine,
    a_node,
    a_ready_machine,
    a_workspace,
    machine_conditions,
)
from tests.support.planning import applied, conditions, deleted, planned

OWN = a_workspace(instance_type="")
NAMES = [machine_name(UID, slot=slot, attempt=1) for slot in range(5)]


def taken(*nodes: dict[str, Any], workspace: dict[str, Any] = OWN) -> list[str]:
    """The nodes in use, by status.workerNodes."""
    report = planned(workspace, *nodes).report
    return list(report[0].status["workerNodes"]) if report else []


@pytest.mark.parametrize(
    "other",
    [
        a_node("n", labels={"app": "other"}),
        a_node("n", ready=False),
        a_node("n", unschedulable=True),
        a_node("n", held_by="somebody"),
        a_node("n", held_by="chat", namespace="elsewhere"),
        a_node("n", taints=[{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]),
        a_node("n", taints=[{"key": "sku", "value": "db", "effect": "NoExecute"}]),
    ],
    ids=["other label", "not ready", "cordoned", "somebody's", "same name, other namespace", "taint", "taint's value"],
)
def test_a_node_that_is_not_fit_is_not_taken(other: dict[str, Any]) -> None:
    assert taken(other) == []


@pytest.mark.parametrize(
    "taint",
    [
        {"key": "sku", "value": "gpu", "effect": "NoSchedule"},
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
        {"key": "dedicated", "value": "db", "effect": "PreferNoSchedule"},
    ],
)
def test_a_taint_that_our_pods_tolerate_is_no_obstacle(taint: dict[str, str]) -> None:
    assert taken(a_node("n", taints=[taint])) == ["n"]


def test_the_size_must_be_the_one_asked_for_in_any_case() -> None:
    workspace = a_workspace(instance_type="standard_d2s_V5")
    assert taken(a_node("n"), workspace=workspace) == ["n"]
    assert taken(a_node("n", instance_type="Standard_D4s_v5"), workspace=workspace) == []
    assert taken(a_node("n", instance_type=""), workspace=workspace) == []


def test_nodes_of_ones_own_may_have_any_size() -> None:
    assert taken(a_node("n", instance_type="anything")) == ["n"]


def test_a_model_that_needs_gpus_takes_own_nodes_that_have_them_free() -> None:
    workspace = a_workspace(instance_type="", preset="falcon-40b")
    assert taken(a_node("a"), a_node("b", gpus=1), a_node("c", gpus=2), workspace=workspace) == ["c"]


def test_expressions_select_too() -> None:
    selector = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}
    workspace = a_workspace(instance_type="", resource={"labelSelector": selector})
    assert taken(a_node("x", labels={"zone": "c"}), a_node("y", labels={"zone": "b"}), workspace=workspace) == ["y"]


def test_preferred_nodes_come_first_then_those_in_the_status_then_by_name() -> None:
    nodes = [a_node(name) for name in "dcba"]
    assert taken(*nodes) == ["a"]
    assert taken(*nodes, workspace=a_workspace(instance_type="", status={"workerNodes": ["c"]})) == ["c"]
    preferring = a_workspace(instance_type="", status={"workerNodes": ["c"]}, resource={"preferredNodes": ["d"]})
    assert taken(*nodes, workspace=preferring) == ["d"]


def test_a_spot_node_is_taken_after_those_that_the_cloud_does_not_take_back() -> None:
    spot = a_node(
        "a", taints=[{"key": "kubernetes.azure.com/scalesetpriority", "value": "spot", "effect": "NoSchedule"}]
    )
    assert taken(spot, a_node("b")) == ["b"]
    assert taken(spot) == ["a"]
    assert taken(spot, a_node("b"), workspace=a_workspace(instance_type="", status={"workerNodes": ["a"]})) == ["a"]


def test_a_preferred_node_that_does_not_fit_is_not_taken() -> None:
    preferring = a_workspace(instance_type="", resource={"preferredNodes": ["a"]})
    assert taken(a_node("a", labels={}), a_node("b"), workspace=preferring) == ["b"]


def test_a_held_node_stays_though_a_better_one_appears_or_it_is_not_ready() -> None:
    preferring = a_workspace(instance_type="", resource={"preferredNodes": ["a"]})
    held = a_node("b", held_by="chat", labelled_by_us=True, ready=False)
    todo = planned(preferring, a_node("a"), held)
    assert todo.apply == ()
    assert todo.report[0].status["workerNodes"] == ["b"]


def test_existing_nodes_are_held_and_only_what_is_missing_is_bought() -> None:
    todo = planned(a_workspace(count=3), a_node("n"))
    assert [n["metadata"]["name"] for n in applied(todo, "Node")] == ["n"]
    assert len(applied(todo, "Machine")) == 2


def test_without_an_instance_type_nothing_is_ever_bought() -> None:
    todo = planned(a_workspace(instance_type="", count=2), a_node("n"))
    assert applied(todo, "Machine") == []
    assert conditions(todo)["MachineReady"][0] == "True"
    assert conditions(todo)["ResourceReady"] == (
        "False",
        "TooFewNodes",
        "1 of 2 nodes are Ready, bear app=chat and belong to no other Workspace. "
        'What to do: label more nodes; with instanceType "" none are bought',
    )


def test_a_node_that_no_longer_fits_is_given_back() -> None:
    moved = a_node("n", labels={"app": "other"}, held_by="chat", labelled_by_us=True)
    todo = planned(OWN, moved)
    assert applied(todo, "Node") == [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {}}},
    ]
    assert todo.apply[0].uid == moved["metadata"]["uid"]


def test_labels_that_others_put_on_a_node_are_not_ours_to_take_off() -> None:
    assert planned(OWN, a_node("n", labels={"app": "other"}, held_by="chat")).apply == ()


def test_what_is_held_beyond_the_count_is_given_back() -> None:
    held = [a_node(name, held_by="chat", labelled_by_us=True) for name in "ab"]
    todo = planned(OWN, *held)
    assert [n["metadata"] for n in applied(todo, "Node")] == [{"name": "b", "labels": {}}]


def test_a_machine_holds_its_place_before_its_node_has_joined() -> None:
    todo = planned(a_workspace(), a_machine(NAMES[0]), a_node("n"))
    assert todo.apply == ()


def test_a_node_of_a_machine_is_known_by_its_agent_pool_before_the_machine_says_so() -> None:
    launched = a_machine(NAMES[0], conditions=machine_conditions(1, "NodeNotFound"))
    todo = planned(a_workspace(), launched, a_node("n", held_by="chat", pool=NAMES[0]))
    assert todo.report[0].status["workerNodes"] == ["n"]


def test_machines_of_other_hands_are_used_and_the_surplus_is_given_up() -> None:
    """An earlier Workspace of the name left one whose node is ready, and KAITO left one."""
    orphan = a_ready_machine("ws-orphan", node="o", owner_uid="earlier")
    kaito = a_machine("ws-kaito", owner_uid="")
    todo = planned(a_workspace(), kaito, orphan, a_node("o", held_by="chat", pool="ws-orphan"))
    assert deleted(todo) == ["Machine ws-kaito"]
    assert all(step.gives_up for step in todo.delete)
    assert applied(todo, "Machine") == []
    assert todo.report[0].status["workerNodes"] == ["o"]


def test_a_machine_on_its_way_out_is_waited_for_because_it_is_still_paid_for() -> None:
    todo = planned(a_workspace(), a_machine(NAMES[0], deleting=True))
    assert applied(todo, "Machine") == []
    assert conditions(todo)["MachineReady"][:2] == ("False", "MachineTerminating")


def test_machine_names_are_functions_of_identity_and_fit_an_agent_pool() -> None:
    assert len({machine_name(UID, slot=s, attempt=a) for s in range(10) for a in (1, 2)}) == 20
    assert machine_name(UID, slot=0, attempt=1) == machine_name(UID, slot=0, attempt=1)
    assert machine_name(UID, slot=0, attempt=1) != machine_name("other", slot=0, attempt=1)
    assert all(len(name) == 11 and name.startswith("ws") and name.isalnum() for name in NAMES)


def test_two_workspaces_that_want_the_same_node_plan_with_its_version_so_that_one_loses() -> None:
    node = a_node("n")
    for name in ("chat", "rival"):
        todo = planned(a_workspace(name, uid=f"uid-{name}", instance_type=""), node)
        versions = [n["metadata"]["resourceVersion"] for n in applied(todo, "Node")]
        assert versions == [node["metadata"]["resourceVersion"]]
