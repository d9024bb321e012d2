"""What the operator of a cluster was installed with, as far as commands depend on it: read from its Deployment."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaito_operator.api.runtime import Runtime
    from kaito_operator.kube.client import Kube

Manifest = Mapping[str, Any]
OPERATOR = "workspace"


def runs_as(deployment: Manifest, controller: str) -> bool:
    """Whether it runs our program as this controller, or says so by its name."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return any(list(c.get("command", []))[-1:] == [controller] for c in containers) or (
        deployment["metadata"].get("labels", {}).get("app.kubernetes.io/name", "").removeprefix("kaito-") == controller
    )


def environment(deployment: Manifest | None) -> dict[str, str]:
    """What its containers are told."""
    containers = deployment["spec"]["template"]["spec"]["containers"] if deployment else ()
    return {each["name"]: each.get("value", "") for c in containers for each in c.get("env", ())}


def runtime_of(deployments: Iterable[Manifest]) -> "Runtime | None":
    """What the installation runs models with; None without an operator of ours, whose settings would say it."""
    from kaito_operator.api.runtime import Runtime
    from kaito_operator.api.sources import Source
    from presets.cards import OLDEST, capability

    told = environment(next((each for each in deployments if runs_as(each, OPERATOR)), None))
    source = told.get("KAITO_MODEL_FILES", "")
    if source not in tuple(Source):
        return None
    oldest = capability(told.get("KAITO_RUNTIME_CAPABILITY", "")) or OLDEST
    return Runtime(Source(source), bool(told.get("KAITO_RUNTIME_IMAGE")), oldest)


async def runtime(kube: "Kube") -> "Runtime | None":
    """Of the cluster; None where its operator is not to be seen: it judges for itself."""
    from kaito_cli.requests import requests
    from kaito_operator.kube.errors import Forbidden

    async with requests(kube) as api:
        try:
            return runtime_of((await api.get("/apis/apps/v1/deployments"))["items"])
        except Forbidden:
            return None
