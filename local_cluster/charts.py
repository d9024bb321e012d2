"""Installs the two operators from their charts, as a user would, with the values of the local cluster."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import hub, registry, storage
from local_cluster.binaries import pinned
from local_cluster.errors import LocalClusterError
from local_cluster.namespace import AZURE_PORT, SYSTEM_ADDRESS

CHARTS = Path(__file__).parent.parent / "charts"
NAMESPACE = "kaito-system"
IMAGE = {"repository": "local/kaito-operator", "tag": "dev"}
LOGGING = {"format": "text", "level": "INFO"}
PRESET_VERSION = "dev"
"""The tag of preset images in the table of images."""
AZURE_TOKEN = "azure-token"  # noqa: S105 - the name of a Secret

VALUES: dict[str, dict[str, Any]] = {
    "workspace": {
        "image": IMAGE,
        "modelFiles": "baked",
        "runtimeImage": f"local/kaito-runtime:{PRESET_VERSION}",
        "runtimeCapability": "0.0",  # no node here has the card of its size: the runtime is on processors
        "hub": {"endpoint": f"http://{SYSTEM_ADDRESS}:{hub.PORT}", "tokenSecret": hub.SECRET},
        "presetRegistryName": "local",
        "presetVersion": PRESET_VERSION,
        "logging": LOGGING,
        "tuning": {"downloadAllow": [f"{SYSTEM_ADDRESS}/32"], "storageClass": storage.CLASS},
        "plainHttpRegistries": [f"{SYSTEM_ADDRESS}:{registry.PORT}"],
    },
    "gpu-provisioner": {
        "image": IMAGE,
        "logging": LOGGING,
        "settings": {
            "azure": {
                "subscriptionId": "00000000-0000-0000-0000-000000000000",
                "resourceGroup": "local",
                "clusterName": "local",
                "location": "local",
                "tenantId": "00000000-0000-0000-0000-000000000000",
                "endpoint": f"http://{SYSTEM_ADDRESS}:{AZURE_PORT}",
                "staticTokenSecret": AZURE_TOKEN,
            },
            "goneSeconds": 2,
            "pollSeconds": 1,
        },
    },
}
"""Chart → what differs here from its values.yaml."""

GROUNDS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": AZURE_TOKEN, "namespace": NAMESPACE},
        "stringData": {"token": "the stand-in believes everybody"},
    },
    hub.token_secret(NAMESPACE),
]
"""What must be there before the charts."""


async def install(
    programs: Mapping[str, Path], *, environment: Mapping[str, str], images: Mapping[str, Mapping[str, Any]]
) -> None:
    """Grounds, CRDs, then both charts; returns when they are applied. Raises LocalClusterError.

    ``images``: chart → values that say where its images are, if they are none of the table.
    """
    tools = _Tools(programs, environment)
    await tools.apply({"apiVersion": "v1", "kind": "List", "items": GROUNDS})
    for name in VALUES:
        if any((crds := CHARTS / name / "files/crds").glob("*.yaml")):
            await tools.kubectl("apply", "--server-side", f"--filename={crds}")
            await tools.kubectl("wait", "--for=condition=Established", f"--filename={crds}", "--timeout=240s")
    for name, values in VALUES.items():
        chosen = {**values, **images.get(name, {}), "crds": {"install": False}}  # they are there
        await tools.apply(await tools.render(name, chosen))


async def apply(
    objects: list[Mapping[str, Any]], *, programs: Mapping[str, Path], environment: Mapping[str, str]
) -> None:
    """Applies objects of the cluster's own. Raises LocalClusterError."""
    await _Tools(programs, environment).apply({"apiVersion": "v1", "kind": "List", "items": objects})


async def available(programs: Mapping[str, Path], *, environment: Mapping[str, str], within: int) -> None:
    """Returns when both operators are available. Raises LocalClusterError that says why they are not."""
    tools = _Tools(programs, environment)
    condition = ("--for=condition=Available", f"--timeout={within}s")
    try:
        await tools.kubectl("wait", f"--namespace={NAMESPACE}", "deployment", "--all", *condition)
    except LocalClusterError:
        pods = json.loads(await tools.kubectl("get", f"--namespace={NAMESPACE}", "pods", "--output=json"))["items"]
        why = "; ".join(trouble for pod in pods if (trouble := _trouble(pod))) or "no pod was made"
        raise LocalClusterError(f"the operators are not available after {within} s: {why}") from None


def _trouble(pod: Mapping[str, Any]) -> str:
    """Why a pod is not ready; "" if it is."""
    name = pod["metadata"]["name"]
    for container in pod["status"].get("containerStatuses", []):
        state = {**container.get("lastState", {}), **container["state"]}
        told = state.get("terminated") or state.get("waiting") or {}
        if not container["ready"]:
            code = f" with exit code {told['exitCode']}" if "exitCode" in told else ""
            return f"{name}: {told.get('reason', 'not ready')}{code} {told.get('message', '')}".rstrip()
    return "" if pod["status"].get("containerStatuses") else f"{name}: {pod['status']['phase']}"


@dataclass(frozen=True, slots=True)
class _Tools:
    """kubectl and helm, with an environment that leads them to the cluster."""

    programs: Mapping[str, Path]
    environment: Mapping[str, str]

    async def render(self, chart: str, values: Mapping[str, Any]) -> str:
        """A chart's manifests as YAML."""
        version = f"--kube-version={pinned('k8s.io/kubernetes')}"
        place = ("template", chart, str(CHARTS / chart), f"--namespace={NAMESPACE}", version, "--values=-")
        return await self._run("helm", *place, text=json.dumps(values))

    async def apply(self, manifests: str | Mapping[str, Any]) -> None:
        """Server-side apply."""
        text = manifests if isinstance(manifests, str) else json.dumps(manifests)
        await self.kubectl("apply", "--server-side", "--filename=-", text=text)

    async def kubectl(self, *arguments: str, text: str = "") -> str:
        """What kubectl printed. Raises LocalClusterError with what it complained of."""
        return await self._run("kubectl", *arguments, text=text)

    async def _run(self, program: str, *arguments: str, text: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(self.programs[program]),
            *arguments,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate(text.encode())
        if process.returncode:
            raise LocalClusterError(f"{program} {arguments[0]}: {' '.join(errors.decode().split())[-400:]}")
        return out.decode()
