"""Every manifest that the Workspace controller writes, as people read it; and every pod of it is restricted."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from kaito_operator.plan import Plan
from kaito_operator.workspace.machines import machine_name
from tests.support.builders import UID, a_node, a_ready_machine, a_workspace
from tests.support.planning import applied, planned
from tests.support.pod_security import violations

FIRST = machine_name(UID, slot=0, attempt=1)
A100 = "Standard_NC48ads_A100_v4"
PRIVATE = {
    "preset": {
        "name": "llama-2-7b-chat",
        "accessMode": "private",
        "presetOptions": {"image": "team.example.com/llama:7b", "imagePullSecrets": ["pull"]},
    }
}
EXPRESSIONS = {
    "labelSelector": {
        "matchLabels": {"pool": "gpus"},
        "matchExpressions": [
            {"key": "zone", "operator": "NotIn", "values": ["c", "d"]},
            {"key": "retired", "operator": "DoesNotExist"},
        ],
    }
}
WORKSPACES = {
    "on-processors": a_workspace(),
    "on-gpus": a_workspace(preset="falcon-40b", instance_type=A100, count=2),
    "private": a_workspace(inference=PRIVATE, instance_type="Standard_NC24ads_A100_v4"),
    "own-nodes": a_workspace(preset="falcon-7b", instance_type="", resource=EXPRESSIONS),
    "load-balanced": a_workspace(annotations={"kaito.sh/enablelb": "tRuE"}),
    "adapters": a_workspace(
        inference={
            "preset": {"name": "smollm2-135m-instruct"},
            "adapters": [
                {"source": {"name": "style", "image": "r.io/team/style:1", "imagePullSecrets": ["pull", "a.b"]}},
                {"source": {"name": "facts", "image": "r.io/team/facts:1"}, "strength": "0.5"},
            ],
        }
    ),
}
README_QUICK_START = {
    "preset": {"name": "phi-3-mini-128k-instruct"},
    "method": "qlora",
    "input": {
        "urls": [
            "https://huggingface.co/datasets/philschmid/dolly-15k-oai-style/resolve/main/data/"
            "train-00000-of-00001-54e3756291ca09c6.parquet?download=true"
        ]
    },
    "output": {
        "image": "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1",
        "imagePushSecret": "ACR_REGISTRY_SECRET_HERE",
    },
}
VOLUME = {"persistentVolumeClaim": {"claimName": "shared"}}
TUNINGS = {
    "quick-start": a_workspace(tuning=README_QUICK_START, instance_type="Standard_NC4as_T4_v3"),  # its V100 is too old
    "image-to-volume": a_workspace(
        tuning={
            "preset": {"name": "smollm2-135m-instruct"},
            "method": "LoRA",
            "input": {"image": "r.io/team/rows:1", "imagePullSecrets": ["pull"]},
            "output": {"volumeSource": VOLUME},
        }
    ),
    "volume-to-image": a_workspace(
        tuning={
            "preset": {"name": "smollm2-135m-instruct"},
            "method": "lora",
            "input": {"volumeSource": VOLUME},
            "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
        }
    ),
}
GOLDEN = Callable[[str, Any], None]


def on_its_nodes(workspace: Mapping[str, Any]) -> Plan:
    """The plan once all nodes are there."""
    resource = workspace["resource"]
    size, count = resource["instanceType"], resource["count"]
    if not size:
        return planned(workspace, a_node("own", labels={"pool": "gpus"}, gpus=1))
    names = [machine_name(UID, slot=slot, attempt=1) for slot in range(count)]
    machines = [a_ready_machine(name, node=f"n-{name}", instance_type=size) for name in names]
    nodes = [a_node(f"n-{name}", instance_type=size, gpus=8, held_by="chat", pool=name) for name in names]
    return planned(workspace, *machines, *nodes)


@pytest.mark.parametrize("case", WORKSPACES)
def test_the_workload_is_as_people_have_read_it(case: str, golden: GOLDEN) -> None:
    todo = on_its_nodes(WORKSPACES[case])
    golden(f"workspace/workload-{case}", [*applied(todo, "Service"), *applied(todo, "Deployment")])


@pytest.mark.parametrize("case", TUNINGS)
def test_the_tuning_is_as_people_have_read_it(case: str, golden: GOLDEN) -> None:
    todo = on_its_nodes(TUNINGS[case])
    written = [applied(todo, kind) for kind in ("ConfigMap", "PersistentVolumeClaim", "Job")]
    golden(f"workspace/tuning-{case}", [manifest for manifests in written for manifest in manifests])


@pytest.mark.parametrize("case", [case for case in WORKSPACES if case != "own-nodes"])
def test_the_machines_are_as_people_have_read_them(case: str, golden: GOLDEN) -> None:
    golden(f"workspace/machines-{case}", applied(planned(WORKSPACES[case]), "Machine"))


def test_a_reservation_is_two_labels_under_the_version_that_was_seen(golden: GOLDEN) -> None:
    node = a_node("own", labels={"pool": "gpus"}, gpus=1)
    node["metadata"]["resourceVersion"] = "4711"
    golden("workspace/reservation", applied(planned(WORKSPACES["own-nodes"], node), "Node"))


STATUSES = {
    "machine-asked-for": (a_workspace(finalizer=False),),
    "machine-in-progress": (
        a_workspace(),
        a_ready_machine(FIRST, node="n"),
        a_node("n", ready=False, held_by="chat", pool=FIRST),
    ),
    "model-loading": (a_workspace(), a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)),
    "two-mistakes": (a_workspace(preset="smollm2", instance_type="Standard_X1"),),
    "hub-asked": (a_workspace(preset="org/model"),),
}


@pytest.mark.parametrize("case", STATUSES)
def test_the_status_is_as_people_have_read_it(case: str, golden: GOLDEN) -> None:
    golden(f"workspace/status-{case}", planned(*STATUSES[case]).report[0].status)


@pytest.mark.security
@pytest.mark.parametrize("case", WORKSPACES)
def test_every_pod_meets_the_restricted_pod_security_profile(case: str) -> None:
    deployments = applied(on_its_nodes(WORKSPACES[case]), "Deployment")
    assert len(deployments) == 1
    assert violations(deployments[0]["spec"]["template"]["spec"]) == []


@pytest.mark.security
@pytest.mark.parametrize("case", TUNINGS)
def test_every_tuning_pod_meets_the_restricted_pod_security_profile(case: str) -> None:
    (job,) = applied(on_its_nodes(TUNINGS[case]), "Job")
    assert violations(job["spec"]["template"]["spec"]) == []


@pytest.mark.security
def test_the_evaluator_of_pod_security_sees_what_is_wrong() -> None:
    pod = {
        "hostNetwork": True,
        "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
        "containers": [{"name": "c", "ports": [{"hostPort": 80}], "securityContext": {"privileged": True}}],
    }
    assert violations(pod) == [
        "hostNetwork",
        "volume host: hostPath",
        "container c: hostPort",
        "container c: privileged",
        "container c: allowPrivilegeEscalation",
        "container c: capabilities",
        "container c: runAsNonRoot",
        "container c: seccompProfile",
    ]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, path)
    else:
        yield path, value


@pytest.mark.security
def test_no_pod_is_given_a_token_of_the_api_server() -> None:
    for workspace in WORKSPACES.values():
        spec = applied(on_its_nodes(workspace), "Deployment")[0]["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False


def test_a_manifest_leaves_out_what_it_does_not_say() -> None:
    for workspace in WORKSPACES.values():
        for step in on_its_nodes(workspace).apply:
            assert [path for path, value in leaves(step.manifest) if value is None] == []
