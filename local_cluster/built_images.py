"""The images that ``make images`` built with buildah, brought to the registry of a cluster of containers."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from typing import Any

import yaml

from local_cluster import registry
from local_cluster.charts import CHARTS
from local_cluster.errors import LocalClusterError

OPERATOR = "kaito/operator"
PRESET = "kaito/kaito-smollm2-135m-instruct"
PAUSE = "kaito/pause"
"""What keeps a pod's namespaces open: the operator's image, asleep."""
ASLEEP = ("python", "-c", "import signal; signal.pause()")
HOW_TO = "sudo make images WEIGHTS=weights MODEL=smollm2-135m-instruct TORCH=cpu"


def version() -> str:
    """The tag that the charts look for."""
    chart = yaml.safe_load((CHARTS / "workspace/Chart.yaml").read_text())
    return str(chart["appVersion"])


async def push(host: str, *, environment: Mapping[str, str]) -> None:
    """Copies the images to the registry at ``host``. Raises LocalClusterError that says what to build first."""
    if shutil.which("buildah") is None:
        raise LocalClusterError(f"a cluster of containers needs the images that buildah built: {HOW_TO}")
    buildah = _Buildah(environment)
    tag = version()
    for name in (OPERATOR, PRESET):
        if not await buildah.has(f"{name}:{tag}"):
            raise LocalClusterError(f"there is no image {name}:{tag}: {HOW_TO}")
    await buildah.put_to_sleep(f"{OPERATOR}:{tag}", name=f"{PAUSE}:{tag}")
    for name in (PAUSE, OPERATOR, PRESET):
        await buildah.push(f"{name}:{tag}", host=host)


class _Buildah:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    async def has(self, image: str) -> bool:
        try:
            await self._run("inspect", "--type", "image", image)
        except LocalClusterError:
            return False
        return True

    async def put_to_sleep(self, image: str, *, name: str) -> None:
        """An image of the same layers that does nothing."""
        container = await self._run("from", "--pull-never", image)
        try:
            await self._run("config", "--entrypoint", json.dumps(ASLEEP), "--cmd", "", container)
            await self._run("commit", "--quiet", container, name)
        finally:
            await self._run("rm", container)

    async def push(self, image: str, *, host: str) -> None:
        login = f"{registry.USER}:{registry.PASSWORD}"
        quick = ("--format", "oci", "--compression-format", "zstd", "--compression-level", "1")
        await self._run(
            "push", "--quiet", "--tls-verify=false", "--creds", login, *quick, image, f"docker://{host}/{image}"
        )

    async def _run(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "buildah", *arguments, env=dict(self._environment), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await process.communicate()
        if process.returncode:
            raise LocalClusterError(f"buildah {arguments[0]}: {' '.join(errors.decode().split())[-400:]}")
        return out.decode().strip()


def values(host: str) -> dict[str, dict[str, Any]]:
    """Chart → the values by which it takes the images from the registry."""
    image = {"repository": f"{host}/{OPERATOR}", "tag": version()}
    runtime = f"{host}/{PRESET}:{version()}"  # which has weights besides, that a runtime does not mind
    presets = {"runtimeImage": runtime, "presetRegistryName": f"{host}/kaito", "presetVersion": version()}
    return {"workspace": {"image": image, **presets}, "gpu-provisioner": {"image": image}}
