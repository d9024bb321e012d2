"""Nodes come and go: each is a kubelet with a container runtime, an address and a range for its pods."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from local_cluster import kubelet, linux
from local_cluster.api import Api, Refused
from local_cluster.azure_machines import VirtualMachine
from local_cluster.control_plane import ControlPlane
from local_cluster.credentials import kubeconfig, write_secret
from local_cluster.errors import LocalClusterError
from local_cluster.kubelet import Node
from local_cluster.processes import Program

log = logging.getLogger(__name__)


class Runtime(Protocol):
    """A container runtime; cancelled, it ends its containers."""

    async def serve(self, socket_path: Path) -> None:
        """Serves CRI on a unix socket until cancelled."""
        ...


MakeRuntime = Callable[[Node, Callable[[], int | None]], Runtime]
"""Makes the runtime of a node; the second argument answers the kubelet's process id, whose mounts containers share."""


@dataclass(slots=True)
class _Running:
    node: Node
    kubelet: Program
    runtime: asyncio.Task[None]
    gpus: asyncio.Task[None] | None
    stopping: bool = False


class Nodes:
    """All nodes of a cluster; for Azure's stand-in, its VirtualMachines. ``cgroup`` is above the nodes' own, if any."""

    def __init__(
        self,
        *,
        plane: ControlPlane,
        api: Api,
        directory: Path,
        token: str,
        environment: Mapping[str, str],
        make_runtime: MakeRuntime,
        cgroup: str = "",
    ) -> None:
        self._plane = plane
        self._api = api
        self._directory = directory
        self._token = token
        self._environment = environment
        self._make_runtime = make_runtime
        self._cgroup = cgroup
        self._running: dict[str, _Running] = {}
        self._removing: set[asyncio.Task[None]] = set()

    async def start(self, machine: VirtualMachine) -> None:
        """A new node; returns when its kubelet runs, which is before it has registered."""
        if machine.name in self._running:
            return
        directory = self._directory / machine.name
        directory.mkdir(parents=True, exist_ok=True)
        node = Node(
            name=machine.name,
            index=self._free_index(),
            directory=directory,
            labels=machine.labels,
            taints=machine.taints,
            provider_id=machine.provider_id,
            gpus=machine.gpus,
            cgroup=f"{self._cgroup}/{machine.name}" if self._cgroup else "",
            measured=linux.filesystem(directory) in kubelet.MEASURABLE,
        )
        program = self._kubelet(node)
        runtime = self._make_runtime(node, lambda: program.pid)
        serving = asyncio.create_task(runtime.serve(node.runtime_socket), name=f"runtime of {node.name}")
        serving.add_done_callback(_log_failure)
        advertising = asyncio.create_task(self._advertise(node)) if node.gpus else None
        self._running[node.name] = _Running(node, program, serving, advertising)
        await _listens(serving, node.runtime_socket)
        await program.start()

    async def stop(self, name: str) -> None:
        """Takes the node away as a cloud does: power off, then the Node object goes.

        Its address stays taken until nothing of it is left.
        """
        running = self._running.get(name)
        if running is None or running.stopping:
            return
        running.stopping = True
        await running.kubelet.stop()
        tasks = [task for task in (running.runtime, running.gpus) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._throw_away(running.node.directory)
        await self._forget(name)
        del self._running[name]

    async def ready(self, name: str) -> bool:
        """Whether the node says Ready."""
        node = await self._api.get(f"/api/v1/nodes/{name}")
        conditions = node["status"].get("conditions", []) if node else []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def kubelet(self, name: str) -> Program:
        """The kubelet of a node that was started."""
        return self._running[name].kubelet

    def _throw_away(self, directory: Path) -> None:
        """Out of the way at once, for another machine of the name; gone when the disk gets to it: images are large."""
        rubbish = Path(tempfile.mkdtemp(prefix=".gone-", dir=self._directory))
        directory.rename(rubbish / directory.name)
        removing = asyncio.create_task(asyncio.to_thread(shutil.rmtree, rubbish, ignore_errors=True))
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)

    def _free_index(self) -> int:
        used = {running.node.index for running in self._running.values()}
        free = next((index for index in range(1, 255) if index not in used), None)
        if free is None:
            raise LocalClusterError("254 nodes run already; there is no address for another")
        return free

    def _kubelet(self, node: Node) -> Program:
        """The kubelet, with its files written. It speaks as the node it is, so that the Node authorizer applies."""
        identity = node.directory / "kubeconfig"
        write_secret(
            identity,
            kubeconfig(
                server=self._plane.url,
                token=self._token,
                authority=self._plane.authority.read_bytes(),
                cluster="local",
                acts_as=f"system:node:{node.name}",
                group="system:nodes",
            ),
        )
        config = node.directory / "kubelet.json"
        write_secret(config, kubelet.configuration(node))
        argv = kubelet.command(node, program=self._plane.programs["kubelet"], kubeconfig=identity, config=config)
        log_file = self._directory.parent / "logs" / f"kubelet-{node.name}.log"
        return Program(f"kubelet of {node.name}", argv, log_file=log_file, environment=self._environment)

    async def _forget(self, name: str) -> None:
        """Deletes the Node object, as the cloud's node controller does once a machine is gone."""
        while True:
            try:
                return await self._api.delete(f"/api/v1/nodes/{name}")
            except Refused as error:  # the API server may be starting again
                log.warning("node %s: %s", name, error)
                await asyncio.sleep(1)

    async def _advertise(self, node: Node) -> None:
        """Says on the Node how many GPUs it has, as a device plugin would, and again whenever the kubelet forgets.

        A kubelet that starts sets extended resources it has no plugin for to 0 (kubelet_node_status.go,
        reconcileExtendedResource).
        """
        wanted = {"nvidia.com/gpu": str(node.gpus)}
        path = f"/api/v1/nodes/{node.name}"
        while True:
            seen = None
            try:
                seen = await self._api.get(path)
                if seen and seen["status"].get("allocatable", {}).get("nvidia.com/gpu") != str(node.gpus):
                    await self._api.merge(f"{path}/status", {"status": {"capacity": wanted, "allocatable": wanted}})
            except Refused as error:
                log.warning("GPUs of %s: %s", node.name, error)
            await asyncio.sleep(2 if seen else 0.1)


async def _listens(serving: asyncio.Task[None], socket: Path) -> None:
    """Waits until a runtime listens: a kubelet that finds none gives up."""
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(socket)
        except (FileNotFoundError, ConnectionRefusedError):
            if serving.done():
                serving.result()
                raise LocalClusterError(f"the container runtime ended before it listened on {socket}") from None
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("%s ended", task.get_name(), exc_info=error)
