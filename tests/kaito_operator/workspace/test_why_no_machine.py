"""What keeps machines and nodes from being ready: from what is seen to the leaf reason, the object and the cure."""

from dataclasses import replace
from typing import Any

import pytest

from kaito_operator.api.kinds import MACHINE, NODECLAIM, Kind
from kaito_operator.api.sources import Source
from kaito_operator.gpu_provisioner.status import PROGRESS as PROVISIONERS_PROGRESS
from kaito_operator.workspace.diagnosis import PROGRESS
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.plan import plan
from kaito_operator.workspace.purchase import NodeClass, node_claims
from tests.support.builders import (
    NOON,
    UID,
    a_machine,
    a_node,
    a_ready_machine,
    a_workspace,
    condition,
    machine_conditions,
    seen_of,
)
from tests.support.planning import CATALOG, INSTALLATION, conditions, planned

FIRST, SECOND = (machine_name(UID, slot=slot, attempt=1) for slot in (0, 1))
WHAT = f"Machine {FIRST} (Standard_D2s_v5)"
KNOWN = [
    (0, "QuotaExceeded"),
    (0, "SkuNotAvailable"),
    (0, "AllocationFailed"),
    (0, "AuthorizationFailed"),
    (0, "Throttled"),
    (0, "LaunchTimeout"),
    (1, "RegistrationTimeout"),
]


@pytest.mark.parametrize(("done", "reason"), KNOWN)
def test_a_machine_that_fails_says_why_in_the_words_of_its_provisioner(done: int, reason: str) -> None:
    told = "no cores left (ask for more)"
    todo = planned(a_workspace(), a_machine(FIRST, conditions=machine_conditions(done, reason, told)))
    assert conditions(todo)["MachineReady"] == ("False", reason, f"{WHAT}: {told}")
    assert conditions(todo)["WorkspaceReady"] == conditions(todo)["MachineReady"]
    assert (todo.apply, todo.delete) == ((), ())


def test_what_is_progress_to_gpu_provisioner_is_no_failure_to_a_workspace() -> None:
    assert PROVISIONERS_PROGRESS - {"Terminating"} <= PROGRESS


def test_where_kaito_wants_the_step_to_be_brief_ready_says_why() -> None:
    brief, why = "all requested instance types were unavailable during launch", "Current Limit: 0 (ask for more)"
    told = machine_conditions(0, "QuotaExceeded", brief)
    ready = condition("Ready", "False", "QuotaExceeded", f"{brief}: {why}")
    todo = planned(a_workspace(), a_machine(FIRST, conditions=[*(c for c in told if c["type"] != "Ready"), ready]))
    assert conditions(todo)["MachineReady"] == ("False", "QuotaExceeded", f"{WHAT}: {brief}: {why}")


def test_a_failure_that_we_have_no_name_for_keeps_the_provisioners() -> None:
    todo = planned(a_workspace(), a_machine(FIRST, conditions=machine_conditions(0, "SubnetFull", "no addresses left")))
    assert conditions(todo)["MachineReady"] == (
        "False",
        "machineFailedCreation",
        f"{WHAT}: SubnetFull: no addresses left",
    )


def test_what_is_too_long_for_a_status_is_cut() -> None:
    endless = a_machine(FIRST, conditions=machine_conditions(0, "QuotaExceeded", "x" * 40_000))
    message = conditions(planned(a_workspace(), endless))["MachineReady"][2]
    assert len(message) == 4096
    assert message.endswith("x…")


def test_one_machine_that_fails_is_told_though_another_is_on_its_way() -> None:
    failing = a_machine(SECOND, conditions=machine_conditions(0, "QuotaExceeded", "no cores left"))
    on_its_way = a_machine(FIRST, conditions=machine_conditions(1, "NodeNotFound"))
    assert conditions(planned(a_workspace(count=2), on_its_way, failing))["MachineReady"][1] == "QuotaExceeded"


def test_a_provisioner_that_does_not_answer_is_told_after_two_minutes() -> None:
    young = planned(a_workspace(), a_machine(FIRST, created="2026-01-02T11:59:00Z"))
    assert conditions(young)["MachineReady"][:2] == ("Unknown", "CreateMachinePending")
    assert young.look_again == 61.0
    old = planned(a_workspace(), a_machine(FIRST, created="2026-01-02T11:58:00Z"))
    assert conditions(old)["MachineReady"] == (
        "False",
        "ProvisionerNotAnswering",
        f"{WHAT}: no provisioner has answered for 2 minutes. "
        "What to do: see whether gpu-provisioner is installed and runs",
    )


BY_CLAIMS = Installation(
    "r", "1", model_files=Source.BAKED, purchase=node_claims(NodeClass("karpenter.k8s.aws", "EC2NodeClass", "default"))
)


@pytest.mark.money
@pytest.mark.parametrize(("kind", "installed"), [(MACHINE, INSTALLATION), (NODECLAIM, BY_CLAIMS)], ids=["m", "c"])
def test_without_the_crd_nothing_is_asked_for_and_the_chart_is_named(kind: Kind, installed: Installation) -> None:
    seen = replace(seen_of(a_workspace()), absent=frozenset({kind}))
    todo = plan(seen, NOON, catalog=CATALOG, installation=installed)
    status, reason, message = conditions(todo)[installed.purchase.condition]
    assert (status, reason) == ("False", "MachineKindMissing")
    assert message.startswith(f"the cluster knows no {kind.plural} of {kind.api_version}")
    assert "What to do: install " in message
    assert [step.manifest["kind"] for step in todo.apply] == []


def test_without_the_other_crd_all_goes_its_way() -> None:
    seen = replace(seen_of(a_workspace()), absent=frozenset({NODECLAIM}))
    todo = plan(seen, NOON, catalog=CATALOG, installation=INSTALLATION)
    assert [step.manifest["kind"] for step in todo.apply] == ["Machine"]


def test_once_the_crd_is_there_a_machine_is_asked_for_at_once() -> None:
    told = {
        "type": "MachineReady", "status": "False", "reason": "MachineKindMissing", "message": "",
        "lastTransitionTime": "2026-01-02T11:59:59Z",
    }  # fmt: skip
    todo = planned(a_workspace(status={"conditions": [told]}))
    assert [step.manifest["kind"] for step in todo.apply] == ["Machine"]


def test_nodes_that_are_there_need_no_crd() -> None:
    seen = replace(seen_of(a_workspace(), a_node("n")), absent=frozenset({MACHINE}))
    found = conditions(plan(seen, NOON, catalog=CATALOG, installation=INSTALLATION))
    assert found["MachineReady"][:2] == ("True", "installNodePluginsSuccess")


NODES: list[tuple[dict[str, Any], tuple[str, str], str]] = [
    ({"ready": False}, ("False", "NodeNotReady"), "Node n is not Ready: container runtime is down"),
    ({"pressures": ["DiskPressure"]}, ("False", "NodeDiskPressure"), "Node n has DiskPressure: the kubelet is short"),
    ({"pressures": ["MemoryPressure"]}, ("False", "NodeMemoryPressure"), "Node n has MemoryPressure"),
]


@pytest.mark.parametrize(("fields", "expected", "says"), NODES)
def test_a_node_in_trouble_is_named(fields: dict[str, Any], expected: tuple[str, str], says: str) -> None:
    todo = planned(a_workspace(), a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST, **fields))
    status, reason, message = conditions(todo)["ResourceReady"]
    assert (status, reason) == expected
    assert message.startswith(says)
    assert todo.apply == ()


GPU_WORKSPACE = a_workspace(preset="falcon-7b", instance_type="Standard_NC48ads_A100_v4")


def without_gpus(*, ready_since: str) -> dict[str, Any]:
    size = "Standard_NC48ads_A100_v4"
    return a_node("n", instance_type=size, held_by="chat", pool=FIRST, gpus=1, ready_since=ready_since)


def test_gpus_are_waited_for_and_missed_after_five_minutes() -> None:
    machine = a_ready_machine(FIRST, node="n", instance_type="Standard_NC48ads_A100_v4")
    told = "Node n advertises 1 of 2 nvidia.com/gpu"
    soon = planned(GPU_WORKSPACE, machine, without_gpus(ready_since="2026-01-02T11:56:00Z"))
    assert conditions(soon)["ResourceReady"] == ("Unknown", "workspaceResourceStatusNotReady", told)
    assert soon.look_again == 61.0
    late = planned(GPU_WORKSPACE, machine, without_gpus(ready_since="2026-01-02T11:55:00Z"))
    assert conditions(late)["ResourceReady"] == (
        "False",
        "GPUPluginMissing",
        f"{told}. What to do: install the NVIDIA device plugin, or see its logs",
    )


def test_too_few_own_nodes_are_counted_with_what_they_must_have() -> None:
    expression = {"key": "zone", "operator": "In", "values": ["a", "b"]}
    selector = {
        "matchLabels": {"team": "x"},
        "matchExpressions": [expression, {"key": "old", "operator": "DoesNotExist"}],
    }
    workspace = a_workspace(preset="falcon-40b", instance_type="", resource={"labelSelector": selector})
    assert conditions(planned(workspace))["ResourceReady"][2] == (
        "0 of 1 nodes are Ready, bear team=x, zone In (a, b), old DoesNotExist, have 2 free nvidia.com/gpu "
        'and belong to no other Workspace. What to do: label more nodes; with instanceType "" none are bought'
    )
