"""From what a person asks for to the manifest of a Workspace, and what is wrong with it before it is sent. Pure."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaito_operator.api.runtime import Runtime

Manifest = dict[str, Any]
MODEL_FILES = "kaito.sh/model-files"
"""The annotation that says where a model's files come from."""


class Unclear(Exception):
    """What was asked for cannot be written as a manifest; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What ``kaito deploy`` was asked for. With ``method`` the model is tuned, else it is served."""

    name: str
    namespace: str
    preset: str
    instance_type: str
    count: int = 1
    labels: dict[str, str] = field(default_factory=dict)
    image: str | None = None
    pull_secrets: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    method: str | None = None
    data: tuple[str, ...] = ()
    result: str | None = None
    push_secret: str | None = None
    config: str | None = None
    hub_secret: str | None = None
    model_files: str | None = None


def manifest(wish: Wish) -> Manifest:
    """The Workspace. Raises Unclear."""
    task = {"tuning": _tuning(wish)} if wish.method is not None else {"inference": _inference(wish)}
    resource: Manifest = {"instanceType": wish.instance_type}
    if wish.count != 1:
        resource = {"count": wish.count, **resource}
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": wish.name, "namespace": wish.namespace, **_annotations(wish)},
        "resource": {**resource, "labelSelector": {"matchLabels": wish.labels or {"app": wish.name}}},
        **task,
    }


def _annotations(wish: Wish) -> Manifest:
    return {"annotations": {MODEL_FILES: wish.model_files}} if wish.model_files else {}


def pairs(given: list[str], *, option: str) -> dict[str, str]:
    """``KEY=VALUE`` options. Raises Unclear."""
    wrong = [one for one in given if not re.fullmatch(r"[^=]+=[^=]*", one)]
    if wrong:
        raise Unclear(f"{option} {wrong[0]}: write KEY=VALUE")
    return {key: value for key, _, value in (one.partition("=") for one in given)}


def mistakes(wanted: Manifest, *, runtime: "Runtime | None" = None) -> list[str]:
    """What the operator would refuse, one line each with what to write instead.

    ``runtime``: of the installation; None where it is not known, and then not judged by.
    """
    from kaito_operator.api.validation import problems
    from kaito_operator.api.workspace import parse_workspace
    from presets.catalog import load_catalog

    return [str(problem) for problem in problems(parse_workspace(wanted), catalog=load_catalog(), runtime=runtime)]


def consequences(wanted: Manifest) -> str:
    """What applying it leads to, as one line."""
    resource, meta = wanted["resource"], wanted["metadata"]
    count, size = resource.get("count", 1), resource["instanceType"]
    selector = ",".join(f"{key}={value}" for key, value in resource["labelSelector"]["matchLabels"].items())
    machines = f"{count} machine{'s' if count > 1 else ''} of {size}"
    bought = f"{machines}, bought as far as no free node with {selector} exists" if size else f"nodes with {selector}"
    what, task = ("tunes", wanted["tuning"]) if "tuning" in wanted else ("serves", wanted["inference"])
    return f"Workspace {meta['namespace']}/{meta['name']} {what} {task['preset']['name']} on {bought}"


def _preset(wish: Wish) -> Manifest:
    if wish.image is None and wish.pull_secrets:
        raise Unclear("--pull-secret needs --image: write the image that the Secret is for")
    given = {
        "image": wish.image,
        "imagePullSecrets": list(wish.pull_secrets),
        "modelAccessSecret": wish.hub_secret,
    }
    options = {key: value for key, value in given.items() if value}
    access = {"accessMode": "private"} if wish.image else {}
    return {"name": wish.preset, **access, **({"presetOptions": options} if options else {})}


def _inference(wish: Wish) -> Manifest:
    tuning_only = {"--data": wish.data, "--result": wish.result, "--push-secret": wish.push_secret}
    needless = [option for option, given in {**tuning_only, "--config": wish.config}.items() if given]
    if needless:
        raise Unclear(f"{needless[0]} is for tuning: write --tune lora or --tune qlora too")
    adapters = [_adapter(given) for given in wish.adapters]
    return {"preset": _preset(wish), **({"adapters": adapters} if adapters else {})}


def _adapter(given: str) -> Manifest:
    """``NAME=IMAGE`` or ``NAME=IMAGE,STRENGTH``."""
    name, equals, rest = given.partition("=")
    image, _, strength = rest.partition(",")
    if not (name and equals and image):
        raise Unclear(f"--adapter {given}: write NAME=REGISTRY/REPOSITORY:TAG, or NAME=IMAGE,0.5 with a strength")
    return {"source": {"name": name, "image": image}, **({"strength": strength} if strength else {})}


def _tuning(wish: Wish) -> Manifest:
    missing = [option for option, given in (("--data", wish.data), ("--result", wish.result)) if not given]
    if missing:
        raise Unclear(
            f"--tune needs {missing[0]}: write the URL of the rows with --data, the image to push with --result"
        )
    if wish.adapters:
        raise Unclear("--adapter is for serving: leave --tune out")
    optional = {"config": wish.config} if wish.config else {}
    push = {"imagePushSecret": wish.push_secret} if wish.push_secret else {}
    return {
        "preset": _preset(wish),
        "method": wish.method,
        **optional,
        "input": {"urls": list(wish.data)},
        "output": {"image": wish.result, **push},
    }
