"""The container runtime of a node: RuntimeService of CRI, with processes under bubblewrap as containers.

The kubelet does the rest: volumes, init containers, probes, restarts and their back-off. What a method here does not
answer (checkpoints, for one) is answered with UNIMPLEMENTED.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from local_cluster import cri_messages as messages
from local_cluster.container_spec import ContainerSpec, container_spec
from local_cluster.container_usage import Usage, usage, written
from local_cluster.containers import Container, NotRunning, StartFailed
from local_cluster.cri import api_pb2 as cri
from local_cluster.cri_messages import ContainerRecord, SandboxRecord
from local_cluster.cri_server import InvalidRequest, NotFound, NotNow, NotSupported, StartError, TooLate, handlers
from local_cluster.image_service import ImageService
from local_cluster.images import Images
from local_cluster.pod_network import PodNetwork
from local_cluster.stream_sessions import EXEC_PROTOCOL, PORT_FORWARD_PROTOCOL, Command, PortForward
from local_cluster.streaming import StreamingServer

log = logging.getLogger(__name__)


class ProcessRuntime:
    """One node's runtime. ``kubelet_pid`` answers whose mounts containers see; ``gpus``: whether they get the GPUs;
    ``registry``: the host that images which are not in the table are asked for."""

    def __init__(
        self,
        node_name: str,
        images: Images,
        network: PodNetwork,
        kubelet_pid: Callable[[], int | None],
        *,
        gpus: bool = False,
        registry: str = "",
    ) -> None:
        self._node_name = node_name
        self._images = images
        self._registry = registry
        self._network = network
        self._kubelet_pid = kubelet_pid
        self._devices = tuple(sorted(Path("/dev").glob("nvidia*"))) if gpus else ()
        self._sandboxes: dict[str, SandboxRecord] = {}
        self._containers: dict[str, ContainerRecord] = {}
        self._streaming = StreamingServer()

    async def serve(self, socket_path: Path) -> None:
        """Serves CRI on a unix socket until cancelled; then all containers end and the pods' network goes."""
        await self._network.open()
        await self._streaming.open()
        server = grpc.aio.server()
        images = ImageService(self._images, registry=self._registry)
        server.add_generic_rpc_handlers((handlers("RuntimeService", self), handlers("ImageService", images)))
        server.add_insecure_port(f"unix:{socket_path}")
        await server.start()
        log.info("%s: container runtime listens on %s", self._node_name, socket_path)
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(grace=None)
            await asyncio.gather(*(self._stop(sandbox) for sandbox in self._sandboxes.values()))
            await self._streaming.close()

    # The runtime itself.

    async def version(self, _request: Any) -> Any:
        return cri.VersionResponse(
            version="0.1.0", runtime_name="kaito-processes", runtime_version="0.1.0", runtime_api_version="v1"
        )

    async def status(self, _request: Any) -> Any:
        conditions = [cri.RuntimeCondition(type=kind, status=True) for kind in ("RuntimeReady", "NetworkReady")]
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=conditions), runtime_handlers=[cri.RuntimeHandler(name="")]
        )

    async def runtime_config(self, _request: Any) -> Any:
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=cri.CGROUPFS))

    async def update_runtime_config(self, _request: Any) -> Any:
        return cri.UpdateRuntimeConfigResponse()

    # Sandboxes: a pod's network and hostname. No process keeps them; containers come and go in them.

    async def run_pod_sandbox(self, request: Any) -> Any:
        on_node = request.config.linux.security_context.namespace_options.network == cri.NODE
        link = None if on_node else await self._network.attach()
        sandbox = SandboxRecord(
            id=secrets.token_hex(32),
            config=request.config,
            created=time.time_ns(),
            address=link.address if link else self._network.node_address,
            link=link,
        )
        self._sandboxes[sandbox.id] = sandbox
        return cri.RunPodSandboxResponse(pod_sandbox_id=sandbox.id)

    async def stop_pod_sandbox(self, request: Any) -> Any:
        if sandbox := self._sandboxes.get(request.pod_sandbox_id):
            await self._stop(sandbox)
        return cri.StopPodSandboxResponse()

    async def remove_pod_sandbox(self, request: Any) -> Any:
        if sandbox := self._sandboxes.get(request.pod_sandbox_id):
            await self._stop(sandbox)
            self._network.release(sandbox.address)
            for record in self._of(sandbox):
                self._containers.pop(record.id, None)
            self._sandboxes.pop(sandbox.id, None)
        return cri.RemovePodSandboxResponse()

    async def pod_sandbox_status(self, request: Any) -> Any:
        sandbox = self._sandbox(request.pod_sandbox_id)
        return cri.PodSandboxStatusResponse(status=messages.sandbox_status(sandbox))

    async def list_pod_sandbox(self, request: Any) -> Any:
        found = messages.matching_sandboxes(self._sandboxes.values(), request.filter)
        return cri.ListPodSandboxResponse(items=[messages.sandbox_item(sandbox) for sandbox in found])

    async def update_pod_sandbox_resources(self, _request: Any) -> Any:
        """Accepted without effect: a pod as a whole is not limited here."""
        return cri.UpdatePodSandboxResourcesResponse()

    # Containers.

    async def create_container(self, request: Any) -> Any:
        sandbox, config = self._sandbox(request.pod_sandbox_id), request.config
        image = self._images.name_of(config.image.image)
        if image is None:
            raise NotFound(f"{config.image.image}: not found")
        spec = self._spec(config, sandbox, image=image)
        if not spec.argv:
            raise InvalidRequest("no command specified")
        record = ContainerRecord(
            id=secrets.token_hex(32),
            sandbox_id=sandbox.id,
            config=config,
            image=image,
            created=time.time_ns(),
            container=Container(spec, log_path=Path(sandbox.config.log_directory) / config.log_path),
        )
        self._containers[record.id] = record
        return cri.CreateContainerResponse(container_id=record.id)

    async def start_container(self, request: Any) -> Any:
        record = self._container(request.container_id)
        sandbox = self._sandbox(record.sandbox_id)
        kubelet = self._kubelet_pid()
        if kubelet is None or not sandbox.ready or record.container.started:
            raise NotNow(f"container {record.id} cannot be started: the kubelet or the pod has gone, or it ran already")
        network = sandbox.link.namespace_path if sandbox.link else None
        try:
            await record.container.start(mounts_of=kubelet, network=network)
        except StartFailed as error:
            raise StartError(str(error)) from error
        return cri.StartContainerResponse()

    async def stop_container(self, request: Any) -> Any:
        if record := self._containers.get(request.container_id):
            await record.container.stop(grace=request.timeout)
        return cri.StopContainerResponse()

    async def remove_container(self, request: Any) -> Any:
        if record := self._containers.get(request.container_id):
            await record.container.stop(grace=0)
            self._containers.pop(record.id, None)
        return cri.RemoveContainerResponse()

    async def list_containers(self, request: Any) -> Any:
        found = messages.matching_containers(self._containers.values(), request.filter)
        return cri.ListContainersResponse(containers=[messages.container_item(record) for record in found])

    async def container_status(self, request: Any) -> Any:
        record = self._container(request.container_id)
        return cri.ContainerStatusResponse(status=messages.container_status(record))

    async def update_container_resources(self, _request: Any) -> Any:
        """Accepted without effect: a limit holds as it was when the container began."""
        return cri.UpdateContainerResourcesResponse()

    async def reopen_container_log(self, request: Any) -> Any:
        self._container(request.container_id).container.reopen_log()
        return cri.ReopenContainerLogResponse()

    async def exec_sync(self, request: Any) -> Any:
        container = self._container(request.container_id).container
        try:
            output = await container.execute(request.cmd, timeout=request.timeout or None)
        except NotRunning as error:
            raise NotNow(str(error)) from error
        except TimeoutError as error:
            raise TooLate(f"command {request.cmd[0]!r} timed out after {request.timeout} s") from error
        return cri.ExecSyncResponse(stdout=output.stdout, stderr=output.stderr, exit_code=output.exit_code)

    async def exec(self, request: Any) -> Any:
        container = self._container(request.container_id).container
        try:
            argv = container.entering(request.cmd, tty=request.tty)
        except NotRunning as error:
            raise NotNow(str(error)) from error
        command = Command(argv, request.stdin, request.stdout, request.stderr, request.tty)
        return cri.ExecResponse(url=self._streaming.address_for(command.serve, protocol=EXEC_PROTOCOL))

    async def attach(self, _request: Any) -> Any:
        raise NotSupported("attach is not supported in the local cluster: use kubectl logs -f, or kubectl exec")

    async def port_forward(self, request: Any) -> Any:
        sandbox = self._sandbox(request.pod_sandbox_id)
        if not sandbox.ready:
            raise NotNow("the pod has stopped")
        forward = PortForward(sandbox.link.namespace if sandbox.link else None)
        return cri.PortForwardResponse(url=self._streaming.address_for(forward.serve, protocol=PORT_FORWARD_PROTOCOL))

    # What they take.

    async def container_stats(self, request: Any) -> Any:
        record = self._container(request.container_id)
        return cri.ContainerStatsResponse(stats=messages.container_stats(record, _usage(record)))

    async def list_container_stats(self, request: Any) -> Any:
        found = messages.matching_containers(self._containers.values(), request.filter)
        return cri.ListContainerStatsResponse(
            stats=[messages.container_stats(record, _usage(record)) for record in found if record.container.pid]
        )

    async def pod_sandbox_stats(self, request: Any) -> Any:
        return cri.PodSandboxStatsResponse(stats=self._pod_stats(self._sandbox(request.pod_sandbox_id)))

    async def list_pod_sandbox_stats(self, request: Any) -> Any:
        found = messages.matching_sandboxes(self._sandboxes.values(), request.filter)
        return cri.ListPodSandboxStatsResponse(stats=[self._pod_stats(sandbox) for sandbox in found if sandbox.ready])

    async def list_metric_descriptors(self, _request: Any) -> Any:
        return cri.ListMetricDescriptorsResponse()

    async def list_pod_sandbox_metrics(self, _request: Any) -> Any:
        return cri.ListPodSandboxMetricsResponse()

    def _spec(self, config: Any, sandbox: SandboxRecord, *, image: str) -> ContainerSpec:
        return container_spec(config, sandbox=sandbox.config, image=self._images[image], devices=self._devices)

    async def _stop(self, sandbox: SandboxRecord) -> None:
        """Ends all that runs in it and takes its network away; the second time there is nothing left to do."""
        sandbox.ready = False
        await asyncio.gather(*(record.container.stop(grace=0) for record in self._of(sandbox)))
        link, sandbox.link = sandbox.link, None
        if link:
            await self._network.detach(link)

    def _of(self, sandbox: SandboxRecord) -> list[ContainerRecord]:
        return [record for record in self._containers.values() if record.sandbox_id == sandbox.id]

    def _sandbox(self, name: str) -> SandboxRecord:
        if found := self._sandboxes.get(name):
            return found
        raise NotFound(f"sandbox {name}: not found")

    def _container(self, name: str) -> ContainerRecord:
        if found := self._containers.get(name):
            return found
        raise NotFound(f"container {name}: not found")

    def _pod_stats(self, sandbox: SandboxRecord) -> Any:
        return messages.sandbox_stats(sandbox, [(record, _usage(record)) for record in self._of(sandbox)])


def _usage(record: ContainerRecord) -> Usage:
    container = record.container
    if not container.pid:
        return Usage()
    return usage(container.pid) + (written(container.main) if container.main else Usage())
