"""A client of CRI that speaks as the kubelet does, with short words for what tests do all the time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory

from local_cluster.cri import api_pb2 as cri

IMAGE_CALLS = ("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo")


class Cri:
    """One node's runtime, from outside. Pods and containers get names from their number."""

    def __init__(self, socket: Path, *, logs: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}")
        self._logs = logs
        self._count = 0
        self._pods: list[str] = []

    async def __aenter__(self) -> "Cri":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Removes what it made, and closes."""
        for pod in self._pods:
            await self.call("RemovePodSandbox", pod_sandbox_id=pod)
        await self._channel.close()

    async def call(self, method: str, **fields: Any) -> Any:
        """Any method, with the fields of its request."""
        service = "ImageService" if method in IMAGE_CALLS else "RuntimeService"
        described = cri.DESCRIPTOR.services_by_name[service].methods_by_name[method]
        request, response = (message_factory.GetMessageClass(t) for t in (described.input_type, described.output_type))
        stub = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return await stub(request(**fields), timeout=60)

    async def pod(self, **config: Any) -> str:
        """The id of a new sandbox."""
        self._count += 1
        metadata = {"name": f"pod-{self._count}", "uid": f"uid-{self._count}", "namespace": "default"}
        sandbox = {"metadata": metadata, "hostname": f"pod-{self._count}", "log_directory": str(self._logs), **config}
        self._pods.append((await self.call("RunPodSandbox", config=sandbox)).pod_sandbox_id)
        return self._pods[-1]

    async def address(self, pod: str) -> str:
        status = await self.call("PodSandboxStatus", pod_sandbox_id=pod)
        return str(status.status.network.ip)

    async def create(self, pod: str, *command: str, image: str = "local/shell:dev", **config: Any) -> str:
        """The id of a new container."""
        self._count += 1
        name = f"c-{self._count}"
        envs = [{"key": k, "value": v.encode()} for k, v in config.pop("env", {}).items()]
        container = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": command,
            "envs": envs,
            "log_path": f"{name}.log",
            **config,
        }
        return str((await self.call("CreateContainer", pod_sandbox_id=pod, config=container)).container_id)

    async def start(self, pod: str, *command: str, **config: Any) -> str:
        """The id of a new container that has started."""
        container = await self.create(pod, *command, **config)
        await self.call("StartContainer", container_id=container)
        return container

    async def status(self, container: str) -> Any:
        return (await self.call("ContainerStatus", container_id=container)).status

    async def ended(self, container: str) -> Any:
        """The status once the container has ended."""

        async def has_ended() -> bool:
            return bool((await self.status(container)).state == cri.CONTAINER_EXITED)

        await eventually(has_ended)
        return await self.status(container)

    async def log(self, container: str) -> list[tuple[str, str, str]]:
        """Stream, tag and text of each line."""
        return log_lines(Path((await self.status(container)).log_path))

    async def speaks(self, container: str) -> None:
        """Waits for the first line of its log."""

        async def spoke() -> bool:
            return bool(await self.log(container))

        await eventually(spoke)

    async def output(self, pod: str, *command: str, **config: Any) -> list[str]:
        """The lines that a container writes on both streams until it ends."""
        container = await self.start(pod, *command, **config)
        await self.ended(container)
        return [line for _, _, line in await self.log(container)]

    async def execute(self, container: str, *command: str, timeout: int = 0) -> tuple[str, str, int]:
        """What ExecSync answers."""
        answer = await self.call("ExecSync", container_id=container, cmd=command, timeout=timeout)
        return answer.stdout.decode(), answer.stderr.decode(), answer.exit_code


def log_lines(path: Path) -> list[tuple[str, str, str]]:
    """Stream, tag and text of each line of a log file."""
    entries = (line.split(" ", 3) for line in path.read_text().split("\n")[:-1])
    return [(stream, tag, text) for _, stream, tag, text in entries]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what must come, however busy the machine is."""
    async with asyncio.timeout(120):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


def security(**fields: Any) -> Mapping[str, Any]:
    """The ``linux`` part of a container with this security context."""
    return {"security_context": fields}


def sh(script: str) -> Sequence[str]:
    """A command that runs a script."""
    return ("/bin/sh", "-c", script)
