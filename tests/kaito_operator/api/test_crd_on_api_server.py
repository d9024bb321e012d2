"""What a real API server takes and refuses by the CRD of the Workspace, and the words it does so with."""

import subprocess
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_operator.api import crd
from kaito_operator.api.reasons import Reason
from kaito_operator.api.validation import problems
from kaito_operator.api.workspace import parse_workspace
from local_cluster import binaries
from presets.catalog import load_catalog
from tests.kaito_operator.api.test_validation import BAD, GOOD
from tests.support.builders import a_workspace
from tests.support.control_plane import ApiServer, Refused, establish, withdraw
from tests.support.waiting import eventually

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("crds")]
Json = dict[str, Any]
EXAMPLES = Path(__file__).parents[3] / "examples"


def created(manifest: Mapping[str, Any], namespace: str) -> Json:
    """The manifest as a user writes it."""
    fields = {k: v for k, v in manifest.items() if k not in ("metadata", "status")}
    meta = manifest["metadata"]
    own = {k: meta[k] for k in ("annotations", "finalizers") if k in meta}
    return {**fields, "metadata": {"name": meta["name"], "namespace": namespace, **own}}


def workspaces(namespace: str, name: str = "", *, group: str = "kaito.sh") -> str:
    return f"/apis/{group}/v1alpha1/namespaces/{namespace}/workspaces{f'/{name}' if name else ''}"


# KAITO's own examples, as its 0.3 documentation has them: they must apply unchanged.
FALCON: Json = {
    "resource": {"instanceType": "Standard_NC12s_v3", "labelSelector": {"matchLabels": {"apps": "falcon-7b"}}},
    "inference": {"preset": {"name": "falcon-7b"}},
}
README: Json = {
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "tuning-phi-3"}}},
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {
            "urls": ["https://huggingface.co/datasets/philschmid/dolly/resolve/main/train.parquet?download=true"]
        },
        "output": {
            "image": "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1",
            "imagePushSecret": "ACR_REGISTRY_SECRET_HERE",
        },
    },
}
SOURCE = {"name": "falcon-7b-adapter", "image": "modelsregistry.azurecr.io/ADAPTER_HERE:0.0.1"}
TEMPLATE = {"spec": {"containers": [{"name": "c", "image": "i", "args": ["--x"], "resources": {"limits": {"cpu": 1}}}]}}
UPSTREAM: dict[str, Json] = {
    "falcon-7b": FALCON,
    "falcon-7b, load-balanced": {**FALCON, "metadata": {"annotations": {"kaito.sh/enablelb": "True"}}},
    "falcon-7b with an adapter": {
        **FALCON,
        "inference": {**FALCON["inference"], "adapters": [{"source": SOURCE, "strength": "0.2"}]},
    },
    "llama-2-13b-chat, private": {
        "resource": {
            "instanceType": "Standard_NC12s_v3",
            "labelSelector": {"matchLabels": {"apps": "llama"}},
            "count": 2,
        },
        "inference": {
            "preset": {
                "name": "llama-2-13b-chat",
                "accessMode": "private",
                "presetOptions": {"image": "REGISTRY.azurecr.io/llama:1", "imagePullSecrets": ["pull"]},
            }
        },
    },
    "a template": {**FALCON, "inference": {"template": TEMPLATE}},
    "two adapters, one without a strength": {
        **FALCON,
        "inference": {
            **FALCON["inference"],
            "adapters": [{"source": SOURCE, "strength": "0.2"}, {"source": {**SOURCE, "name": "second"}}],
        },
    },
    "preferred nodes": {**FALCON, "resource": {**FALCON["resource"], "count": 1, "preferredNodes": ["node-1"]}},
    "the README's tuning": README,
    "tuning by lora with a configuration": {
        **README,
        "tuning": {**README["tuning"], "preset": {"name": "falcon-7b"}, "method": "lora", "config": "lora-params"},
    },
    "tuning from an image that needs a Secret": {
        **README,
        "tuning": {
            **README["tuning"],
            "input": {"name": "rows", "image": "r.azurecr.io/DATA:0.1", "imagePullSecrets": ["pull"]},
        },
    },
    "tuning from an image": {**README, "tuning": {**README["tuning"], "input": {"image": "r.azurecr.io/DATA:0.1"}}},
}


@pytest.mark.parametrize("case", UPSTREAM)
def test_upstreams_own_manifests_apply_unchanged(api_server: ApiServer, namespace: str, case: str) -> None:
    meta = {"name": "from-upstream", "namespace": namespace, **UPSTREAM[case].get("metadata", {})}
    stored = api_server.ask("POST", workspaces(namespace), {**workspace_kind(), **UPSTREAM[case], "metadata": meta})
    for part in ("inference", "tuning"):
        assert (part in stored) == (part in UPSTREAM[case])
    assert stored.get("inference", {}).get("template") == UPSTREAM[case].get("inference", {}).get("template")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/workspace.yaml")), ids=lambda path: path.parent.name)
def test_our_examples_apply(api_server: ApiServer, namespace: str, path: Path) -> None:
    (manifest,) = (each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "Workspace")
    stored = api_server.ask("POST", workspaces(namespace), created(manifest, namespace))
    assert stored["resource"]["instanceType"] == manifest["resource"]["instanceType"]


def workspace_kind(group: str = "kaito.sh") -> Json:
    return {"apiVersion": f"{group}/v1alpha1", "kind": "Workspace"}


@pytest.mark.parametrize("case", GOOD)
def test_what_our_validator_finds_good_is_taken(api_server: ApiServer, namespace: str, case: str) -> None:
    assert api_server.ask("POST", workspaces(namespace), created(GOOD[case], namespace))["metadata"]["generation"] == 1


EXPLAINED = {
    "workspace": ["resource <Object> -required-", "inference <Object>", "tuning <Object>", "Serve a model."],
    "workspace.tuning": [
        "Tune a model. Cannot be added or removed later.",
        "input <Object> -required-",
        "lora or qlora, in upper or lower case. Cannot be changed.",
        "A ConfigMap of this namespace with training_config.yaml. By default the method's own.",
    ],
    "workspace.inference.preset.presetOptions": ["modelAccessSecret <string>", "None by default."],
    "workspace.status.model": ["revision <string>", "The commit that is served."],
}


@pytest.mark.parametrize("field", EXPLAINED)
def test_kubectl_explains_each_field_with_its_default_and_consequence(api_server: ApiServer, field: str) -> None:
    kubectl = str(binaries.find("kubectl")["kubectl"])
    command = [kubectl, "explain", field, "--kubeconfig", str(api_server.kubeconfig("admin"))]

    def explained() -> str:
        return " ".join(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())

    eventually(lambda: bool(explained()), within=60, what="the API server describes the kind")
    text = explained()
    assert [words for words in EXPLAINED[field] if words not in text] == []


def test_the_defaults_are_kaitos(api_server: ApiServer, namespace: str) -> None:
    bare = {"resource": {"labelSelector": {}}, "inference": {"preset": {"name": "phi-2"}}}
    meta = {"name": "bare", "namespace": namespace}
    stored = api_server.ask("POST", workspaces(namespace), {**workspace_kind(), **bare, "metadata": meta})
    assert stored["resource"] == {"count": 1, "instanceType": "Standard_NC12s_v3", "labelSelector": {}}
    assert stored["inference"] == {"preset": {"name": "phi-2", "accessMode": "public"}}


PRESET = {"preset": {"name": "phi-2"}}
REFUSED: dict[str, tuple[Json, list[str]]] = {
    "a name longer than a label": (a_workspace("a" * 64), ["at most 63 lower-case letters"]),
    "a name with a dot": (a_workspace("a.b"), ["at most 63 lower-case letters"]),
    "neither": (
        {k: v for k, v in a_workspace().items() if k != "inference"},
        ["write exactly one of inference and tuning"],
    ),
    "both": (BAD["both"][0], ["write exactly one of inference and tuning"]),
    "no resource": ({k: v for k, v in a_workspace().items() if k != "resource"}, ["resource: Required value"]),
    "no selector": (a_workspace() | {"resource": {}}, ["resource.labelSelector: Required value"]),
    "count 0": (a_workspace(count=0), ["resource.count", "greater than or equal to 1"]),
    "preset and template": (
        BAD["preset and template"][0],
        ["write exactly one of inference.preset and inference.template"],
    ),
    "private without an image": (BAD["private without an image"][0], ["accessMode private needs presetOptions.image"]),
    "an access mode that is none": (
        a_workspace(inference={"preset": {"name": "phi-2", "accessMode": "secret"}}),
        ['supported values: "public", "private"'],
    ),
    "eleven adapters": (
        a_workspace(
            inference={**PRESET, "adapters": [{"source": {"name": f"a{i}", "image": "r.io/a/b:1"}} for i in range(11)]}
        ),
        ["inference.adapters: Too many: 11: must have at most 10 items"],
    ),
    "adapters in every way wrong": (
        a_workspace(
            inference={
                **PRESET,
                "adapters": [
                    {"source": {"name": "one", "image": "r.io/a/b:1"}, "strength": "1.5"},
                    {"source": {"name": "one", "image": "$(rm -rf)"}},
                    {"source": {"name": "a;b", "image": "r.io/a/b:1"}},
                    {"source": {"urls": ["u"]}},
                ],
            }
        ),
        [
            'inference.adapters[0].strength: Invalid value: "1.5": write a number from 0 to 1 in quotes, such as "0.5"',
            "write an image as registry/repository:tag",
            "two adapters have the same source.name: give each its own",
            "inference.adapters[2]: Invalid value: an adapter needs source.name: letters, digits and '-'",
            "inference.adapters[3]: Invalid value: an adapter needs source.image: write registry/repository:tag",
        ],
    ),
    "a tuning in every way wrong": (
        BAD["a tuning in every way wrong"][0],
        [
            "resource.count: tuning runs on one node, write 1",
            "write lora or qlora",
            "tuning.input: Invalid value: write exactly one of urls, volumeSource and image",
            "image needs imagePushSecret: write the name of the Secret to push with",
        ],
    ),
    "an output without a tag": (
        a_workspace(tuning={**README["tuning"], "output": {"image": "r.io/a/b", "imagePushSecret": "s"}}),
        ["tuning.output.image", "write an image as registry/repository:tag"],
    ),
    "a label's value that is none": (
        a_workspace(match_labels={"app": "b c"}),
        ["resource.labelSelector.matchLabels[app]", "a label's value has letters"],
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_shape_is_refused_in_words_that_say_what_to_write(
    api_server: ApiServer, namespace: str, case: str
) -> None:
    manifest, says = REFUSED[case]
    with pytest.raises(Refused) as refused:
        api_server.ask("POST", workspaces(namespace), created(manifest, namespace))
    told = str(refused.value).replace('\\"', '"')
    assert " 422 " in told
    assert [words for words in says if words not in told] == []


@pytest.mark.badinput
@pytest.mark.parametrize("case", [case for case in REFUSED if case != "an access mode that is none"])
def test_the_pass_refuses_what_the_api_server_refuses(case: str) -> None:
    found = problems(parse_workspace(REFUSED[case][0]), catalog=load_catalog())
    assert Reason.INVALID in {problem.reason for problem in found}


SERVED = a_workspace(
    inference={
        "preset": {"name": "phi-2"},
        "adapters": [{"source": {"name": "one", "image": "r.io/a/b:1"}}],
    }
)
TUNED = a_workspace(tuning={**README["tuning"], "input": {"name": "rows", "urls": ["https://example.com/a"]}})
TEMPLATED = a_workspace(inference={"template": TEMPLATE})
CANNOT_CHANGE: dict[str, tuple[Json, Json, str]] = {
    "count": (SERVED, {"resource": {"count": 2}}, "resource.count cannot be changed"),
    "size": (SERVED, {"resource": {"instanceType": "Standard_NC6s_v3"}}, "resource.instanceType cannot be changed"),
    "selector": (
        SERVED,
        {"resource": {"labelSelector": {"matchLabels": {"more": "x"}}}},
        "resource.labelSelector cannot be changed",
    ),
    "preset": (SERVED, {"inference": {"preset": {"name": "falcon-7b"}}}, "inference.preset cannot be changed"),
    "preset to template": (
        SERVED,
        {"inference": {"preset": None, "template": {}}},
        "preset and template cannot be swapped",
    ),
    "inference to tuning": (
        SERVED,
        {"inference": None, "tuning": README["tuning"]},
        "inference and tuning cannot be swapped",
    ),
    "tuning added": (SERVED, {"tuning": README["tuning"]}, "inference and tuning cannot be swapped"),
    "method": (TUNED, {"tuning": {"method": "lora"}}, "tuning.method cannot be changed"),
    "tuned model": (TUNED, {"tuning": {"preset": {"name": "phi-2"}}}, "tuning.preset cannot be changed"),
    "name of the data": (TUNED, {"tuning": {"input": {"name": "other"}}}, "tuning.input.name cannot be changed"),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", CANNOT_CHANGE)
def test_what_cannot_be_changed_is_refused_by_name(api_server: ApiServer, namespace: str, case: str) -> None:
    manifest, patch, says = CANNOT_CHANGE[case]
    api_server.ask("POST", workspaces(namespace), created(manifest, namespace))
    with pytest.raises(Refused, match=says):
        api_server.merge(workspaces(namespace, "chat"), patch)


CAN_CHANGE: dict[str, tuple[Json, Json]] = {
    "preferred nodes": (SERVED, {"resource": {"preferredNodes": ["n"]}}),
    "adapters": (SERVED, {"inference": {"adapters": [{"source": {"name": "two", "image": "r.io/a/b:2"}}]}}),
    "the annotation of the load balancer": (SERVED, {"metadata": {"annotations": {"kaito.sh/enablelb": "True"}}}),
    "the template": (TEMPLATED, {"inference": {"template": {"spec": {"x": 1}}}}),
    "the method's upper and lower case": (TUNED, {"tuning": {"method": "QLoRA"}}),
    "the data": (TUNED, {"tuning": {"input": {"urls": ["https://example.com/b"]}}}),
    "where the result goes": (TUNED, {"tuning": {"output": {"image": "r.io/a/b:2"}}}),
    "whether it is served": (TUNED, {"tuning": {"serve": False}}),
    "the configuration": (TUNED, {"tuning": {"config": "mine"}}),
}


@pytest.mark.parametrize("case", CAN_CHANGE)
def test_what_can_be_changed_is_taken(api_server: ApiServer, namespace: str, case: str) -> None:
    manifest, patch = CAN_CHANGE[case]
    before = api_server.ask("POST", workspaces(namespace), created(manifest, namespace))
    after = api_server.merge(workspaces(namespace, "chat"), patch)
    assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]


def without_rules(schema: Any) -> Any:
    """A schema as a version without any rules would have had it."""
    if isinstance(schema, dict):
        dropped = ("x-kubernetes-validations", "required", "minimum", "enum", "maxItems")
        return {k: v if k == "status" else without_rules(v) for k, v in schema.items() if k not in dropped}
    return schema


def test_what_older_rules_let_in_can_be_patched_in_its_status_and_deleted(
    api_server: ApiServer, namespace: str
) -> None:
    """A stricter CRD must not jam what is stored: upstream's did (#1719)."""
    group = "stricter.example.com"
    strict = deepcopy(crd.definition(crd.WORKSPACE))
    strict["metadata"]["name"] = f"workspaces.{group}"
    strict["spec"]["group"] = group
    strict["spec"]["names"] = {"kind": "Workspace", "plural": "workspaces"}
    lax = deepcopy(strict)
    version = lax["spec"]["versions"][0]
    version["schema"]["openAPIV3Schema"] = without_rules(version["schema"]["openAPIV3Schema"])
    establish(api_server, lax)
    bad = {
        **workspace_kind(group),
        "metadata": {"name": "b.ad", "namespace": namespace, "finalizers": ["example.com/keep"]},
        "resource": {"count": 0},
        "inference": {"adapters": [{"strength": "7"}]},
        "tuning": {"method": "x"},
    }
    path = workspaces(namespace, "b.ad", group=group)
    api_server.ask("POST", workspaces(namespace, group=group), bad)
    definition = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workspaces.{group}"
    api_server.apply(definition, strict)

    def refused() -> bool:
        try:
            api_server.ask("POST", workspaces(namespace, group=group), {**bad, "metadata": {"name": "new"}})
        except Refused:
            return True
        api_server.ask("DELETE", workspaces(namespace, "new", group=group))
        return False

    eventually(refused, within=20, what="the stricter rules hold")
    status = {"status": {"endpoint": "none", "conditions": []}}
    assert api_server.merge(f"{path}/status", status)["status"]["endpoint"] == "none"
    assert api_server.merge(path, {"metadata": {"finalizers": ["example.com/keep", "example.com/more"]}})
    api_server.ask("DELETE", path)
    api_server.merge(path, {"metadata": {"finalizers": []}})
    assert api_server.get(path) is None
    withdraw(api_server, strict)
