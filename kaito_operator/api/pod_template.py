"""What of a pod template of the user's own is not even of the right shape: the CRD takes anything there.

Only what the operator reads itself is looked at; the rest is for the API server to judge, when it gets the Deployment.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kaito_operator.api.problems import Problem

SCHEDULING = "requiredDuringSchedulingIgnoredDuringExecution"
NUMBER = "a number"
RESOURCES: Mapping[str, Any] = {"requests": {}, "limits": {}}
CONTAINERS: list[Any] = [{"ports": [{"containerPort": NUMBER}], "resources": RESOURCES}]
SHAPE: Mapping[str, Any] = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "containers": CONTAINERS,
        "initContainers": CONTAINERS,
        "tolerations": [{}],
        "affinity": {
            "nodeAffinity": {SCHEDULING: {"nodeSelectorTerms": [{"matchExpressions": [{}]}]}},
            "podAntiAffinity": {SCHEDULING: [{}]},
        },
    },
}
"""A mapping is an object with these fields among others, a list of one is a list of those, a word is itself."""


def problems(template: Mapping[str, Any], *, at: str) -> Iterator[Problem]:
    """Each place that is something else than a pod template has there."""
    found = list(_wrong(template, SHAPE, at=at))
    yield from found
    if not found and not (template.get("spec") or {}).get("containers"):
        yield Problem(f"{at}.spec.containers", "write at least one container, with name and image")


def _wrong(given: Any, shape: Any, *, at: str) -> Iterator[Problem]:
    """What is left out, or null, is as if it were empty."""
    if given is None:
        return
    if shape == NUMBER:
        if type(given) is not int:
            yield Problem(at, "write a number")
    elif isinstance(shape, list):
        yield from _wrong_in_list(given, shape[0], at=at)
    elif isinstance(given, Mapping):
        for key, below in shape.items():
            yield from _wrong(given.get(key), below, at=f"{at}.{key}")
    else:
        yield Problem(at, "write an object")


def _wrong_in_list(given: Any, shape: Mapping[str, Any], *, at: str) -> Iterator[Problem]:
    if not isinstance(given, list):
        yield Problem(at, "write a list")
        return
    for index, each in enumerate(given):
        yield from _wrong({} if each is None else each, shape, at=f"{at}[{index}]")
        if each is None:
            yield Problem(f"{at}[{index}]", "write an object")
