"""Inside the namespace: starts the control plane, the system node and Azure's stand-in, and keeps them running."""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import web

from local_cluster import (
    built_images,
    cgroups,
    charts,
    credentials,
    example_files,
    hub,
    model,
    namespace,
    processes,
    registry,
    relay,
    storage,
)
from local_cluster.api import Api
from local_cluster.azure import AzureStandIn
from local_cluster.azure_machines import VirtualMachine
from local_cluster.containerd import Containerd
from local_cluster.control_plane import AUDIT_POLICY, ControlPlane
from local_cluster.errors import LocalClusterError
from local_cluster.images import local_images
from local_cluster.kubelet import Node
from local_cluster.nodes import MakeRuntime, Nodes
from local_cluster.pod_network import PodNetwork
from local_cluster.process_runtime import ProcessRuntime
from local_cluster.processes import Program
from local_cluster.state import ClusterDirectory, ContainerRuntime, Outcome

SYSTEM_NODE = "kaito-system"
REGISTRY = f"{namespace.SYSTEM_ADDRESS}:{registry.PORT}"
SYSTEM_MACHINE = VirtualMachine(name=SYSTEM_NODE, labels={}, taints=(), provider_id="", gpus=0)
"""The machine that the cluster's own pods run on."""

PATIENCE = 240
"""Seconds that each step of the start gets: on a machine that does other things too, it may need them."""
THRIFT = {"GOGC": "50", "GOMAXPROCS": "2"}
"""For the Go programs: a laptop has other plans for its memory and cores, and this cluster little to do."""


class Supervisor:
    """Everything that runs inside one cluster's namespace."""

    def __init__(self, directory: ClusterDirectory, *, name: str, api_port: int, runtime: ContainerRuntime) -> None:
        self._directory = directory
        self._name = name
        self._relay_port = api_port
        self._runtime = runtime
        self._tokens = credentials.new_tokens()
        self._programs: list[Program] = []
        self._plane = ControlPlane(
            programs={link.name: link for link in directory.programs.iterdir()},
            directory=directory.path,
            address=namespace.SYSTEM_ADDRESS,
            listen="0.0.0.0",
        )
        self._environment = {**namespace.environment(), **THRIFT}
        self._volumes = directory.path / "volumes"

    async def run(self, *, bare: bool) -> None:
        """Brings the cluster up, then keeps it up until cancelled."""
        await relay.serve_inside(self._directory.socket)
        api = await self._control_plane()
        nodes = Nodes(
            plane=self._plane,
            api=api,
            directory=self._directory.nodes,
            token=self._tokens[credentials.ADMIN],
            environment=self._environment,
            make_runtime=self._make_runtime(),
            cgroup=cgroups.of_cluster(self._name) if self._runtime is ContainerRuntime.CONTAINERD else "",
        )
        try:
            await self._system_node(nodes)
            processes.check(self._programs)
            await self._surroundings(nodes)
            await processes.first_yes(lambda: _takes_pods(api), programs=self._programs, within=PATIENCE)
            await self._finish(bare=bare)
            await storage.offer_again(api, self._volumes)
        finally:
            await api.close()

    async def _control_plane(self) -> Api:
        self._write_credentials()
        plane = self._plane
        self._say(Outcome.BEGUN, "API server")
        await self._start("etcd", plane.etcd())
        await self._start("kube-apiserver", plane.kube_apiserver())
        await processes.first_yes(self._has_certificate, programs=self._programs, within=PATIENCE)
        api = Api(url=plane.url, token=self._tokens[credentials.ADMIN], authority=plane.authority)
        await processes.first_yes(api.ready, programs=self._programs, within=PATIENCE)
        self._write_kubeconfigs()
        self._say(Outcome.DONE, "API server")
        await self._start("kube-controller-manager", plane.kube_controller_manager())
        await self._start("kube-scheduler", plane.kube_scheduler())
        await self._start("kube-proxy", plane.kube_proxy(SYSTEM_NODE))
        return api

    async def _system_node(self, nodes: Nodes) -> None:
        self._say(Outcome.BEGUN, "system node")
        await nodes.start(SYSTEM_MACHINE)
        programs = [*self._programs, nodes.kubelet(SYSTEM_NODE)]
        await processes.first_yes(lambda: nodes.ready(SYSTEM_NODE), programs=programs, within=PATIENCE)
        self._say(Outcome.DONE, "system node")

    async def _surroundings(self, nodes: Nodes) -> None:
        """What a cluster has around it: a cloud, a registry, a Hub, data, volumes."""
        await serve(AzureStandIn(machines=nodes).app(), port=namespace.AZURE_PORT)
        await serve(example_files.app(), port=example_files.PORT)
        await serve(hub.app(_model_dir()), port=hub.PORT)
        host = REGISTRY
        arguments = registry.prepare(self._directory.path / "registry", address=host)
        await self._start("registry", [str(self._plane.programs["registry"]), *arguments])
        storage.make_directories(self._volumes)
        objects = [registry.login_secret(host), hub.token_secret(), *storage.objects(self._volumes)]
        await charts.apply(objects, programs=self._plane.programs, environment=self._environment)
        if self._runtime is ContainerRuntime.CONTAINERD:
            self._say(Outcome.BEGUN, "images")
            await built_images.push(host, environment=self._environment)
            self._say(Outcome.DONE, "images in the registry")

    async def _finish(self, *, bare: bool) -> None:
        """Installs the operators. Where that fails the cluster stays, so that one can look why."""
        try:
            if not bare:
                self._say(Outcome.BEGUN, "operators")
                containers = self._runtime is ContainerRuntime.CONTAINERD
                images = built_images.values(REGISTRY) if containers else {}
                await charts.install(self._plane.programs, environment=self._environment, images=images)
                await charts.available(self._plane.programs, environment=self._environment, within=PATIENCE)
                self._say(Outcome.DONE, "operators")
        except LocalClusterError as error:
            self._say(Outcome.FAILED, f"{error}; look with: kaito local run -- kubectl get pods -A")
        else:
            self._say(Outcome.UP, f"cluster {self._name} is up")

    async def _start(self, name: str, argv: list[str]) -> Program:
        program = Program(name, argv, log_file=self._directory.logs / f"{name}.log", environment=self._environment)
        await program.start()
        self._programs.append(program)
        return program

    async def _has_certificate(self) -> bool:
        return self._plane.authority.exists() and b"END CERT" in self._plane.authority.read_bytes()

    def _write_credentials(self) -> None:
        plane = self._plane
        credentials.write_secret(plane.tokens, credentials.token_file(self._tokens))
        credentials.write_secret(plane.signing_key, credentials.new_signing_key())
        credentials.write_secret(plane.audit_policy, AUDIT_POLICY)

    def _write_kubeconfigs(self) -> None:
        """One for each program of ours, one for commands inside, and one that works from outside."""
        plane, authority = self._plane, self._plane.authority.read_bytes()
        for user, token in self._tokens.items():
            inside = credentials.kubeconfig(server=plane.url, token=token, authority=authority, cluster=self._name)
            credentials.write_secret(plane.kubeconfig(user), inside)
        token = self._tokens[credentials.ADMIN]
        inside = credentials.kubeconfig(server=plane.url, token=token, authority=authority, cluster=self._name)
        credentials.write_secret(self._directory.inside_kubeconfig, inside)
        # The API server's certificate names localhost, but not 127.0.0.1; and not every client minds tls-server-name.
        server = f"https://localhost:{self._relay_port}"
        outside = credentials.kubeconfig(server=server, token=token, authority=authority, cluster=self._name)
        credentials.write_secret(self._directory.kubeconfig, outside)

    def _make_runtime(self) -> MakeRuntime:
        if self._runtime is ContainerRuntime.PROCESSES:
            return process_runtimes()
        return container_runtimes(self._directory.logs, environment=self._environment)

    def _say(self, outcome: Outcome, text: str) -> None:
        self._directory.report(outcome, text)


async def _takes_pods(api: Api) -> bool:
    """Whether the controller manager has made the service account without which no pod is admitted."""
    return await api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None


async def serve(app: web.Application, *, port: int) -> None:
    """Starts an HTTP server on the address that pods and nodes reach."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, namespace.SYSTEM_ADDRESS, port).start()


def main(name: str, *, api_port: int, bare: bool, runtime: ContainerRuntime, user_namespace: bool) -> int:
    """Runs inside until it is killed; 1 if the cluster could not come up."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    directory = ClusterDirectory.of(name)
    try:
        namespace.furnish(directory.path, user_namespace=user_namespace)
        directory = ClusterDirectory(namespace.INSIDE)
        asyncio.run(Supervisor(directory, name=name, api_port=api_port, runtime=runtime).run(bare=bare))
    except LocalClusterError as error:
        directory.report(Outcome.FAILED, str(error))
    except OSError as error:
        directory.report(Outcome.FAILED, f"{error.filename or 'starting'}: {error.strerror}")
    return 1


def _model_dir() -> Path | None:
    """The embedded model, where there is one."""
    directory = model.directory()
    return directory if directory.is_dir() else None


def process_runtimes() -> MakeRuntime:
    """The container runtimes of this cluster: one table of images for all nodes, a network for each."""
    images = local_images(charts.PRESET_VERSION, _model_dir())

    def make(node: Node, kubelet_pid: Callable[[], int | None]) -> ProcessRuntime:
        network = PodNetwork(node_address=node.address, pod_range=node.pod_range)
        return ProcessRuntime(node.name, images, network, kubelet_pid, gpus=node.gpus > 0, registry=REGISTRY)

    return make


def container_runtimes(logs: Path, *, environment: Mapping[str, str]) -> MakeRuntime:
    """A containerd for each node; images are pulled from the cluster's registry."""

    def make(node: Node, _kubelet_pid: Callable[[], int | None]) -> Containerd:
        pause = f"{REGISTRY}/{built_images.PAUSE}:{built_images.version()}"
        return Containerd(node, host=REGISTRY, pause=pause, logs=logs, environment=environment)

    return make
