"""What is wrong with a Workspace, all of it at once: one validator for admission and for the pass.

The API server checks shape and immutability itself (CEL in the CRD). The shape is checked here again, because an object
may have been stored under older rules; and what needs the catalogue is checked here alone.
"""

import re
from collections.abc import Iterator

from kaito_operator.api import labels, machines_asked, pod_template
from kaito_operator.api.fields import DNS_LABEL
from kaito_operator.api.machines_asked import Asked
from kaito_operator.api.problems import Problem
from kaito_operator.api.reasons import Reason
from kaito_operator.api.runtime import Runtime
from kaito_operator.api.selectors import matches
from kaito_operator.api.sources import Source
from kaito_operator.api.spec import (
    Adapter,
    DataDestination,
    DataSource,
    Inference,
    LabelSelector,
    Preset,
    Resource,
    Tuning,
)
from kaito_operator.api.workspace import Workspace, WorkspaceBody
from presets.catalog import Catalog, Model, UnknownModel

RESERVED_LABELS = (labels.WORKSPACE, labels.WORKSPACE_NAMESPACE)
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
ADAPTER_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?")
METHODS = ("lora", "qlora")
FILE_URL = re.compile(r"https?://[^\s/?#]+/[^\s?#]*[^\s?#/](\?[^\s#]*)?(#sha256=[0-9a-fA-F]{64})?", re.IGNORECASE)
"""What ``tuning_runner.sources`` takes, as far as a pattern can tell: known before a machine is bought for it."""


def problems(workspace: Workspace, *, catalog: Catalog, runtime: Runtime | None = None) -> tuple[Problem, ...]:
    """Everything to mend, in the order of the fields; empty if the Workspace can be worked on.

    ``runtime``: of the installation, where it is known; else what depends on it is not judged.
    """
    found = list(_name(workspace))
    found += workspace.problems
    if workspace.body is not None:
        found += _body(workspace.body, catalog=catalog)
        found += _machines(workspace, workspace.body, catalog=catalog, runtime=runtime)
    return tuple(found)


def _name(workspace: Workspace) -> Iterator[Problem]:
    if not re.fullmatch(DNS_LABEL, workspace.key.name):
        told = "write at most 63 lower-case letters, digits and '-', a letter or digit at both ends"
        yield Problem("metadata.name", told)
    asked = workspace.annotations.get(labels.MODEL_FILES, "")
    if asked and asked not in tuple(Source):
        yield Problem(f"metadata.annotations[{labels.MODEL_FILES}]", f"write one of {', '.join(Source)}")


def _body(body: WorkspaceBody, *, catalog: Catalog) -> Iterator[Problem]:
    yield from _selector(body.resource)
    if (body.inference is None) == (body.tuning is None):
        yield Problem("inference", "write exactly one of inference and tuning")
    if body.inference is not None:
        yield from _inference(body.inference, catalog=catalog)
    if body.tuning is not None:
        yield from _tuning(body.tuning, resource=body.resource, catalog=catalog)


def _machines(
    workspace: Workspace, body: WorkspaceBody, *, catalog: Catalog, runtime: Runtime | None
) -> Iterator[Problem]:
    preset = body.tuning.preset if body.tuning else body.inference.preset if body.inference else None
    if preset is None:
        return
    source = workspace.annotations.get(labels.MODEL_FILES, "")
    asked = Asked(preset, body.resource, tuned=body.tuning is not None, source=source, runtime=runtime)
    yield from machines_asked.problems(asked, _model(preset, catalog=catalog), catalog=catalog)


def _selector(resource: Resource) -> Iterator[Problem]:
    at, selector = "resource.labelSelector", resource.label_selector
    for key in selector.match_labels:
        yield from _label_key(key, at=f"{at}.matchLabels[{key}]")
    for index, expression in enumerate(selector.match_expressions):
        yield from _label_key(expression.key, at=f"{at}.matchExpressions[{index}].key")
        if (expression.operator in ("In", "NotIn")) != bool(expression.values):
            told = "In and NotIn need values, Exists and DoesNotExist take none"
            yield Problem(f"{at}.matchExpressions[{index}].values", told)
    if not resource.instance_type and selector == LabelSelector():
        yield Problem(at, 'with instanceType "" every node of the cluster would match: write which are meant')
    if resource.instance_type and not matches(selector, _labels_of_a_bought_machine(resource)):
        told = 'a bought machine has the matchLabels alone: write matchLabels, or instanceType "" to buy none'
        yield Problem(f"{at}.matchExpressions", told)


def _label_key(key: str, *, at: str) -> Iterator[Problem]:
    if not LABEL_KEY.fullmatch(key):
        yield Problem(at, "write a label's key as name or domain/name, the name at most 63 characters")
    if key in RESERVED_LABELS:
        yield Problem(at, "this label says which Workspace has a node: write another")


def _labels_of_a_bought_machine(resource: Resource) -> dict[str, str]:
    return {
        labels.INSTANCE_TYPE: resource.instance_type,
        labels.ARCH: "amd64",
        labels.OS: "linux",
        **resource.label_selector.match_labels,
    }


def _inference(inference: Inference, *, catalog: Catalog) -> Iterator[Problem]:
    if (inference.preset is None) == (inference.template is None):
        yield Problem("inference", "write exactly one of inference.preset and inference.template")
    if inference.preset is not None:
        yield from _preset(inference.preset, at="inference.preset", catalog=catalog)
    elif inference.template is not None:
        yield from pod_template.problems(inference.template, at="inference.template")
    yield from _adapters(inference.adapters)


def _preset(preset: Preset, *, at: str, catalog: Catalog) -> Iterator[Problem]:
    given = preset.preset_options.image if preset.preset_options else None
    if preset.access_mode == "private" and not given:
        told = "accessMode private needs presetOptions.image: write the image that holds the model"
        yield Problem(f"{at}.presetOptions.image", told)
    try:
        model = catalog.model(preset.name)
    except UnknownModel as unknown:
        if "/" in preset.name:
            return  # the Hub is asked for it, which takes longer than a validator may
        yield Problem(f"{at}.name", str(unknown), Reason.UNKNOWN_PRESET)
        return
    token = preset.preset_options.model_access_secret if preset.preset_options else None
    if model.access == "private" and preset.access_mode != "private" and not token:
        told = (
            f"{model.name} may not be published: write private, and your image of it in presetOptions.image; or the "
            "Secret with your token for the Hub in presetOptions.modelAccessSecret"
        )
        yield Problem(f"{at}.accessMode", told)


def _model(preset: Preset, *, catalog: Catalog) -> Model | None:
    try:
        return catalog.model(preset.name)
    except UnknownModel:
        return None


def _adapters(adapters: tuple[Adapter, ...]) -> Iterator[Problem]:
    names: set[str] = set()
    for index, adapter in enumerate(adapters):
        at = f"inference.adapters[{index}].source"
        yield from _source(adapter.source, at=at)
        if not adapter.source.name or not ADAPTER_NAME.fullmatch(adapter.source.name):
            yield Problem(f"{at}.name", "an adapter needs source.name: letters, digits and '-'")
        elif adapter.source.name in names:
            yield Problem(f"{at}.name", "two adapters have the same source.name: give each its own")
        if not adapter.source.image:
            yield Problem(f"{at}.image", "an adapter needs source.image: write registry/repository:tag")
        names.add(adapter.source.name or "")


def _tuning(tuning: Tuning, *, resource: Resource, catalog: Catalog) -> Iterator[Problem]:
    if resource.count != 1:
        yield Problem("resource.count", "tuning runs on one node, write 1")
    yield from _preset(tuning.preset, at="tuning.preset", catalog=catalog)
    model = _model(tuning.preset, catalog=catalog)
    if model is not None and not model.tuning:
        able = " and ".join(catalog.tunable_like(model.name)) or "others"
        told = f"{model.name} cannot be tuned; {able} can, `kaito models --tuning` lists all"
        yield Problem("tuning.preset.name", told, Reason.UNKNOWN_PRESET)
    if tuning.method.lower() not in METHODS:
        yield Problem("tuning.method", "write lora or qlora")
    yield from _source(tuning.input, at="tuning.input")
    yield from _destination(tuning.output, at="tuning.output")


def _source(source: DataSource, *, at: str) -> Iterator[Problem]:
    if [source.urls, source.volume_source, source.image].count(None) != 2:
        yield Problem(at, "write exactly one of urls, volumeSource and image")
    if source.urls == ():
        yield Problem(f"{at}.urls", "write at least one address")
    for number, url in enumerate(source.urls or ()):
        if not FILE_URL.fullmatch(url):
            yield Problem(f"{at}.urls[{number}]", "write the address of a file, https://HOST/PATH/train.parquet")


def _destination(destination: DataDestination, *, at: str) -> Iterator[Problem]:
    if (destination.volume_source is None) == (destination.image is None):
        yield Problem(at, "write exactly one of volumeSource and image")
    if destination.image is not None and not destination.image_push_secret:
        yield Problem(f"{at}.imagePushSecret", "image needs imagePushSecret: write the name of the Secret to push with")
