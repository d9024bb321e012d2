"""Where model files come from: every row of the table, what is written for each, and what stands against it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from kaito_operator.api.sources import Source
from kaito_operator.api.workspace import parse_workspace
from kaito_operator.plan import Plan
from kaito_operator.workspace.finding import Finding
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.model_files import Baked, FromHub, KaitoImage, Mounted, model_files
from tests.support.builders import UID, a_node, a_ready_machine, a_workspace, rolled_out, stored
from tests.support.planning import CATALOG, applied, conditions, deleted, planned
from tests.support.pod_security import baseline_violations, violations

GOLDEN = Callable[[str, Any], None]
BARE = Installation("mcr.microsoft.com/aks/kaito", "1.2.3")
RUNTIME = "registry.example.com/kaito-runtime:1.2.3"
WITH_RUNTIME = replace(BARE, runtime_image=RUNTIME)
BAKED = replace(BARE, registry="r.io/ours", model_files=Source.BAKED)
OWN = "team.example.com/llama:7b"
A100 = "Standard_NC24ads_A100_v4"


def preset(name: str, *, own: str = "", **options: Any) -> dict[str, Any]:
    """inference.preset, and around it inference."""
    given = {**({"image": own} if own else {}), **options}
    access = {"accessMode": "private"} if own else {}
    return {"preset": {"name": name, **access, **({"presetOptions": given} if given else {})}}


Row = tuple[str, str, str, Installation, object]
PUBLIC = "mcr.microsoft.com/aks/kaito/kaito-falcon-7b:0.0.5"
TABLE: dict[str, Row] = {
    # case: preset, its own image, the annotation, the installation, what it comes to
    "a cluster as it is": ("falcon-7b", "", "", BARE, KaitoImage(PUBLIC)),
    "a cluster as it is, an image built for KAITO": ("llama-2-7b", OWN, "", BARE, KaitoImage(OWN)),
    "a cluster as it is, an image of a model KAITO has not": ("smollm2-135m-instruct", OWN, "", BARE, Baked(OWN)),
    "a cluster as it is, a model KAITO has not": ("smollm2-135m-instruct", "", "", BARE, "NoModelFiles"),
    "a runtime": ("falcon-7b", "", "", WITH_RUNTIME, FromHub(RUNTIME, "tiiuae/falcon-7b", "main")),
    "a runtime, an image": ("llama-2-7b", OWN, "", WITH_RUNTIME, Baked(OWN)),
    "a runtime, a gated model": ("llama-2-7b", "", "", WITH_RUNTIME, "HubGated"),
    "baked": ("falcon-7b", "", "", BAKED, Baked("r.io/ours/kaito-falcon-7b:1.2.3")),
    "baked, an image": ("llama-2-7b", OWN, "", BAKED, Baked(OWN)),
    "asked for: KAITO's": ("falcon-7b", "", "kaito", WITH_RUNTIME, KaitoImage(PUBLIC)),
    "asked for: KAITO's, of a model it has not": ("smollm2-135m-instruct", "", "kaito", WITH_RUNTIME, "NoModelFiles"),
    "asked for: a volume": ("falcon-7b", "", "volume", WITH_RUNTIME, Mounted(RUNTIME, PUBLIC)),
    "asked for: a volume, an image": ("llama-2-7b", OWN, "volume", WITH_RUNTIME, Mounted(RUNTIME, OWN)),
    "asked for: a volume, a model KAITO has not": ("gemma-2-2b-it", "", "volume", WITH_RUNTIME, "NoModelFiles"),
    "asked for: a volume, no runtime": ("falcon-7b", "", "volume", BARE, "NoModelFiles"),
    "asked for: the Hub": ("falcon-7b", "", "hub", WITH_RUNTIME, FromHub(RUNTIME, "tiiuae/falcon-7b", "main")),
    "asked for: the Hub, no runtime": ("falcon-7b", "", "hub", BARE, "NoModelFiles"),
    "asked for: baked": ("falcon-7b", "", "baked", BARE, Baked("mcr.microsoft.com/aks/kaito/kaito-falcon-7b:1.2.3")),
}


@pytest.mark.parametrize("case", TABLE)
def test_one_table_decides_where_model_files_come_from(case: str) -> None:
    name, own, asked, installation, expected = TABLE[case]
    annotations = {"kaito.sh/model-files": asked} if asked else None
    workspace = parse_workspace(a_workspace(inference=preset(name, own=own), annotations=annotations))
    assert workspace.body is not None
    assert workspace.body.inference is not None
    assert workspace.body.inference.preset is not None
    found = model_files(workspace, workspace.body.inference.preset, CATALOG.model(name), installation=installation)
    assert (found.reason.value if isinstance(found, Finding) else found) == expected


LLAMA = preset("llama-2-13b-chat", own="team.example.com/llama:13b", imagePullSecrets=["pull"])
ADAPTED = {
    **preset("falcon-7b"),
    "adapters": [
        {"source": {"name": "style", "image": "r.io/team/style:1", "imagePullSecrets": ["pull"]}},
        {"source": {"name": "facts", "image": "r.io/team/facts:1"}, "strength": "0.5"},
    ],
}
TUNING = {
    "preset": {"name": "falcon-7b"},
    "method": "qlora",
    "input": {"urls": ["https://example.com/rows.jsonl"]},
    "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
}
TWO_V100, TWO_A100 = "Standard_NC12s_v3", "Standard_NC48ads_A100_v4"
SHAPES: dict[str, tuple[dict[str, Any], Installation]] = {
    "kaito": (a_workspace(preset="falcon-7b", instance_type=A100), BARE),
    "kaito-remote-code": (a_workspace(preset="phi-3-mini-4k-instruct", instance_type=A100), BARE),
    "kaito-adapters": (a_workspace(inference=ADAPTED, instance_type=A100), BARE),
    "kaito-torchrun": (a_workspace(inference=preset("llama-2-7b-chat", own=OWN), instance_type=A100), BARE),
    "kaito-distributed-on-one": (a_workspace(inference=LLAMA, instance_type=TWO_V100), BARE),
    "kaito-distributed-on-two": (a_workspace(inference=LLAMA, instance_type=A100, count=2), BARE),
    "volume": (
        a_workspace(preset="falcon-7b", instance_type=A100, annotations={"kaito.sh/model-files": "volume"}),
        WITH_RUNTIME,
    ),
    "hub": (a_workspace(preset="falcon-7b", instance_type=A100), WITH_RUNTIME),
    "hub-gated": (
        a_workspace(inference=preset("llama-3.1-8b-instruct", modelAccessSecret="hf"), instance_type=A100),
        replace(WITH_RUNTIME, hub_endpoint="https://hub.example.com"),
    ),
    "hub-tuning": (a_workspace(tuning=TUNING, instance_type=A100), WITH_RUNTIME),
    "volume-tuning": (
        a_workspace(tuning=TUNING, instance_type=A100, annotations={"kaito.sh/model-files": "volume"}),
        WITH_RUNTIME,
    ),
}


def on_its_nodes(workspace: Mapping[str, Any], installation: Installation, *others: Mapping[str, Any]) -> Plan:
    """The plan once all nodes are there."""
    size, count = workspace["resource"]["instanceType"], workspace["resource"]["count"]
    names = [machine_name(UID, slot=slot, attempt=1) for slot in range(count)]
    machines = [a_ready_machine(name, node=f"n-{name}", instance_type=size) for name in names]
    nodes = [a_node(f"n-{name}", instance_type=size, gpus=8, held_by="chat", pool=name) for name in names]
    return planned(workspace, *machines, *nodes, *others, installation=installation)


@pytest.mark.parametrize("case", SHAPES)
def test_what_is_written_for_each_is_as_people_have_read_it(case: str, golden: GOLDEN) -> None:
    todo = on_its_nodes(*SHAPES[case])
    written = [applied(todo, kind) for kind in ("Service", "Deployment", "StatefulSet", "Job")]
    golden(f"workspace/files-{case}", [manifest for manifests in written for manifest in manifests])


def pod_of(case: str) -> Mapping[str, Any]:
    todo = on_its_nodes(*SHAPES[case])
    (runs,) = [found for kind in ("Deployment", "StatefulSet", "Job") for found in applied(todo, kind)]
    spec: Mapping[str, Any] = runs["spec"]["template"]["spec"]
    return spec


@pytest.mark.security
@pytest.mark.parametrize("case", SHAPES)
def test_only_kaitos_own_images_need_the_baseline_profile(case: str) -> None:
    spec = pod_of(case)
    assert baseline_violations(spec) == []
    objections = violations(spec)
    assert objections == (
        [f"container {c['name']}: runAsNonRoot" for c in all_containers(spec)] if "kaito" in case else []
    )


def all_containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


@pytest.mark.security
def test_the_evaluator_of_the_baseline_profile_sees_what_is_wrong() -> None:
    pod = {
        "hostNetwork": True,
        "containers": [{"name": "c", "securityContext": {"privileged": True, "capabilities": {"add": ["NET_RAW"]}}}],
    }
    assert baseline_violations(pod) == ["hostNetwork", "container c: privileged", "container c: capabilities"]


@pytest.mark.security
@pytest.mark.parametrize("case", SHAPES)
def test_what_a_user_names_never_reaches_a_shell(case: str) -> None:
    shells = [each for each in all_containers(pod_of(case)) if each["command"][0].endswith("sh")]
    assert {each["command"][2] for each in shells} <= {'mkdir -p "$TARGET" && cp -r /data/. "$TARGET"'}
    assert len(shells) == (2 if case == "kaito-adapters" else 0)


@pytest.mark.security
@pytest.mark.parametrize("case", ["hub-gated"])
def test_only_the_step_that_fetches_the_model_sees_the_token(case: str) -> None:
    seen = [each["name"] for each in all_containers(pod_of(case)) if "HF_TOKEN" in str(each)]
    assert seen == ["model"]


def test_a_workspace_whose_files_come_from_elsewhere_now_is_rolled_over_and_the_old_shape_goes() -> None:
    workspace, installation = a_workspace(inference=LLAMA, instance_type=TWO_A100), BARE
    before = on_its_nodes(workspace, installation)
    there = [*map(stored, applied(before, "Service")), rolled_out(applied(before, "StatefulSet")[0])]
    assert on_its_nodes(workspace, installation, *there).apply == ()
    mounted = {**workspace, "metadata": {**workspace["metadata"], "annotations": {"kaito.sh/model-files": "volume"}}}
    todo = on_its_nodes(mounted, WITH_RUNTIME, *there)
    assert deleted(todo) == ["StatefulSet team/chat", "Service team/chat-headless"]
    assert [each["metadata"]["name"] for each in applied(todo, "Deployment")] == ["chat"]


def test_a_model_on_two_machines_is_ready_when_both_pods_are() -> None:
    workspace, installation = SHAPES["kaito-distributed-on-two"]
    before = on_its_nodes(workspace, installation)
    services, (runs,) = list(map(stored, applied(before, "Service"))), applied(before, "StatefulSet")
    ready = on_its_nodes(workspace, installation, *services, rolled_out(runs))
    assert conditions(ready)["WorkspaceReady"][0] == "True"
    half = rolled_out(runs)
    half["status"]["readyReplicas"] = 1
    waits = on_its_nodes(workspace, installation, *services, half)
    assert conditions(waits)["InferenceReady"][2].startswith("1 of 2 replicas answer")


WRONG: dict[str, tuple[dict[str, Any], Installation, str, str]] = {
    "nobody has the files": (a_workspace(), BARE, "NoModelFiles", "set runtimeImage of the operator's chart"),
    "tuning without a runtime": (
        a_workspace(tuning=TUNING, instance_type=A100),
        BARE,
        "NoModelFiles",
        "tuning is done by a program of ours",
    ),
    "gated": (
        a_workspace(preset="gemma-2-2b-it", instance_type=A100),
        WITH_RUNTIME,
        "InvalidWorkspace",
        "presetOptions.modelAccessSecret",
    ),
    "three machines for two parts": (
        a_workspace(inference=LLAMA, instance_type=A100, count=3),
        BARE,
        "DoesNotFit",
        "resource.count must divide that",
    ),
    "two machines for a process of ours": (
        a_workspace(inference=LLAMA, instance_type="Standard_NC6s_v3", count=2),
        BAKED,
        "NotYetSupported",
        "spreads a model over the GPUs of one",
    ),
    "an annotation that is none": (
        a_workspace(annotations={"kaito.sh/model-files": "ftp"}),
        BAKED,
        "InvalidWorkspace",
        "write one of auto, baked, kaito, volume, hub",
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", WRONG)
def test_what_has_no_files_is_told_and_buys_nothing(case: str) -> None:
    workspace, installation, reason, told = WRONG[case]
    todo = planned(workspace, installation=installation)
    status, found, message = conditions(todo)["WorkspaceReady"]
    assert (status, found) == ("False", reason)
    assert told in message
    assert todo.apply == ()


def test_a_foreign_object_of_a_shape_that_is_not_wanted_is_in_nobodys_way() -> None:
    workspace, installation = SHAPES["kaito"]
    foreign = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "chat", "namespace": "team"}}
    todo = on_its_nodes(workspace, installation, stored(foreign))
    assert len(applied(todo, "Deployment")) == 1
    assert conditions(todo)["InferenceReady"][1] == "WorkspaceInferenceStatusPending"


def test_a_foreign_object_of_the_wanted_shape_is_told_and_not_touched() -> None:
    workspace, installation = SHAPES["kaito-distributed-on-one"]
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat-headless", "namespace": "team"}}
    todo = on_its_nodes(workspace, installation, stored(foreign))
    assert conditions(todo)["InferenceReady"][1] == "NameTaken"
    assert "chat-headless" not in [each["metadata"]["name"] for each in applied(todo, "Service")]
