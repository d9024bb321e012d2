"""Everything that is wrong with a Workspace is said at once, each with its field and what to write instead."""

from collections.abc import Mapping
from typing import Any

import pytest

from kaito_operator.api.reasons import Reason
from kaito_operator.api.validation import problems
from kaito_operator.api.workspace import parse_workspace
from presets.catalog import load_catalog
from tests.support.builders import a_workspace

SELECTED = {"matchLabels": {"app": "chat"}}
TUNING: dict[str, Any] = {
    "preset": {"name": "phi-3-mini-128k-instruct"},
    "method": "QLoRA",
    "input": {"urls": ["https://example.com/rows.parquet?download=true"]},
    "output": {"image": "example.com/team/out:1", "imagePushSecret": "push"},
}
ON_GPU = {"instanceType": "Standard_NC24ads_A100_v4"}


def told(manifest: Mapping[str, Any]) -> list[str]:
    return [str(problem) for problem in problems(parse_workspace(manifest), catalog=load_catalog())]


def preset(**fields: Any) -> dict[str, Any]:
    return {"preset": {"name": "smollm2-135m-instruct", **fields}}


GOOD = {
    "a preset on a machine with processors": a_workspace(),
    "a preset on a machine with GPUs": a_workspace(preset="falcon-40b", instance_type="Standard_NC48ads_A100_v4"),
    "any upper and lower case in the size": a_workspace(instance_type="standard_d2S_v5"),
    "nodes of the user's own": a_workspace(instance_type=""),
    "several replicas": a_workspace(count=3),
    "a model of the Hub": a_workspace(preset="org/name"),
    "a private model with its image": a_workspace(
        inference={"preset": {"name": "llama-2-7b", "accessMode": "private", "presetOptions": {"image": "r/x:1"}}},
        resource=ON_GPU,
    ),
    "a template of the user's own": a_workspace(
        inference={"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}
    ),
    "adapters": a_workspace(
        inference={**preset(), "adapters": [{"source": {"name": "one", "image": "r.io/a/b:1"}, "strength": "0.5"}]}
    ),
    "tuning": a_workspace(tuning=TUNING, resource=ON_GPU),
    "an expression that a bought machine meets": a_workspace(
        resource={"labelSelector": {**SELECTED, "matchExpressions": [{"key": "app", "operator": "Exists"}]}}
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_nothing_is_said_of_what_is_right(case: str) -> None:
    assert told(GOOD[case]) == []


def adapter(name: str | None = "one", image: str | None = "r.io/a/b:1") -> dict[str, Any]:
    return {"source": {k: v for k, v in (("name", name), ("image", image)) if v is not None}}


def selector(*expressions: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": labels or {"app": "chat"}, "matchExpressions": list(expressions)}}


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a name longer than a label": (
        a_workspace("a" * 64),
        ["metadata.name: write at most 63 lower-case letters, digits and '-', a letter or digit at both ends"],
    ),
    "neither inference nor tuning": (
        {k: v for k, v in a_workspace().items() if k != "inference"},
        ["inference: write exactly one of inference and tuning"],
    ),
    "both": (
        a_workspace(inference=preset(), tuning=TUNING, resource=ON_GPU),
        ["inference: write exactly one of inference and tuning"],
    ),
    "a template of another shape": (
        a_workspace(
            inference={"template": {"metadata": [], "spec": {"containers": [7, {"ports": [{"containerPort": "a"}]}]}}}
        ),
        [
            "inference.template.metadata: write an object",
            "inference.template.spec.containers[0]: write an object",
            "inference.template.spec.containers[1].ports[0].containerPort: write a number",
        ],
    ),
    "a template without containers": (
        a_workspace(inference={"template": {"spec": {}}}),
        ["inference.template.spec.containers: write at least one container, with name and image"],
    ),
    "preset and template": (
        a_workspace(inference={**preset(), "template": {}}),
        ["inference: write exactly one of inference.preset and inference.template"],
    ),
    "an unknown preset": (
        a_workspace(preset="smollm2-135m-instrct"),
        [
            "inference.preset.name: there is no preset 'smollm2-135m-instrct'; did you mean smollm2-135m-instruct?",
        ],
    ),
    "an unknown size": (
        a_workspace(instance_type="Standard_D2s_v55"),
        [
            "resource.instanceType: there is no instance type 'Standard_D2s_v55'; "
            "did you mean Standard_D2s_v5 or Standard_D32s_v5 or Standard_D2ds_v5?"
        ],
    ),
    "a size too small": (
        a_workspace(preset="falcon-40b", instance_type="Standard_NC6s_v3"),
        [
            "resource.instanceType: falcon-40b needs 2 GPUs, Standard_NC6s_v3 has 1; "
            "falcon-40b needs 90 GiB of GPU memory, Standard_NC6s_v3 has 16 GiB; these are large enough: "
            "Standard_NC48ads_A100_v4, Standard_NC80adis_H100_v5, Standard_NC96ads_A100_v4"
        ],
    ),
    "a preset that may not be published": (
        a_workspace(preset="llama-2-7b", instance_type="Standard_NC24ads_A100_v4"),
        [
            "inference.preset.accessMode: llama-2-7b may not be published: "
            "write private, and your image of it in presetOptions.image; or the Secret with your token for the Hub in "
            "presetOptions.modelAccessSecret"
        ],
    ),
    "private without an image": (
        a_workspace(inference=preset(accessMode="private")),
        [
            "inference.preset.presetOptions.image: accessMode private needs presetOptions.image: "
            "write the image that holds the model"
        ],
    ),
    "adapters without names, images and differences": (
        a_workspace(inference={**preset(), "adapters": [adapter(), adapter(), adapter(None), adapter("two", None)]}),
        [
            "inference.adapters[1].source.name: two adapters have the same source.name: give each its own",
            "inference.adapters[2].source.name: an adapter needs source.name: letters, digits and '-'",
            "inference.adapters[3].source: write exactly one of urls, volumeSource and image",
            "inference.adapters[3].source.image: an adapter needs source.image: write registry/repository:tag",
        ],
    ),
    "a tuning in every way wrong": (
        a_workspace(
            tuning={
                "preset": {"name": "falcon-7b-instruct"},
                "method": "dora",
                "input": {"urls": ["u"], "image": "r.io/a/b:1"},
                "output": {"image": "r.io/a/b:1"},
            },
            instance_type="Standard_NC24ads_A100_v4",
            count=2,
        ),
        [
            "resource.count: tuning runs on one node, write 1",
            "tuning.preset.name: falcon-7b-instruct cannot be tuned; falcon-7b can, `kaito models --tuning` lists all",
            "tuning.method: write lora or qlora",
            "tuning.input: write exactly one of urls, volumeSource and image",
            "tuning.input.urls[0]: write the address of a file, https://HOST/PATH/train.parquet",
            "tuning.output.imagePushSecret: image needs imagePushSecret: write the name of the Secret to push with",
        ],
    ),
    "own nodes, and no word which": (
        a_workspace(instance_type="", match_labels={}),
        [
            'resource.labelSelector: with instanceType "" every node of the cluster would match: write which are meant',
        ],
    ),
    "an expression that no bought machine meets": (
        a_workspace(resource=selector({"key": "zone", "operator": "In", "values": ["a", "b"]})),
        [
            "resource.labelSelector.matchExpressions: a bought machine has the matchLabels alone: "
            'write matchLabels, or instanceType "" to buy none'
        ],
    ),
    "an operator with the wrong values": (
        a_workspace(resource=selector({"key": "app", "operator": "Exists", "values": ["a"]})),
        [
            "resource.labelSelector.matchExpressions[0].values: "
            "In and NotIn need values, Exists and DoesNotExist take none"
        ],
    ),
    "our own label in the selector": (
        a_workspace(resource=selector(**{"kaito.sh/workspace": "other"})),
        [
            "resource.labelSelector.matchLabels[kaito.sh/workspace]: "
            "this label says which Workspace has a node: write another"
        ],
    ),
    "a key that is none": (
        a_workspace(resource=selector(**{"a b": "c"})),
        [
            "resource.labelSelector.matchLabels[a b]: "
            "write a label's key as name or domain/name, the name at most 63 characters"
        ],
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_its_field_and_the_cure(case: str) -> None:
    manifest, expected = BAD[case]
    assert told(manifest) == expected


MALFORMED: dict[str, tuple[Any, list[str]]] = {
    "no resource at all": (None, ["resource: field required"]),
    "a resource that is no object": (5, ["resource: input should be a valid dictionary or instance of Resource"]),
    "no selector, and a count of nothing": (
        {"count": 0},
        [
            "resource.count: input should be greater than or equal to 1",
            "resource.labelSelector: field required",
        ],
    ),
    "a value that is no label": (
        {"labelSelector": {"matchLabels": {"a": "b c"}}},
        [
            "resource.labelSelector.matchLabels.a: a label's value has letters, digits, '-', '_' and '.', "
            "a letter or digit at both ends"
        ],
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", MALFORMED)
def test_what_older_rules_let_in_is_a_problem_and_no_exception(case: str) -> None:
    resource, expected = MALFORMED[case]
    manifest = {**a_workspace(), "resource": resource}
    if resource is None:
        del manifest["resource"]
    assert told(manifest) == expected


def test_each_problem_with_the_catalogue_has_a_reason_of_its_own() -> None:
    manifest = a_workspace(preset="smollm3", instance_type="Standard_X1")
    found = problems(parse_workspace(manifest), catalog=load_catalog())
    assert [problem.reason for problem in found] == [Reason.UNKNOWN_PRESET, Reason.UNKNOWN_INSTANCE_TYPE]
