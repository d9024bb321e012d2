"""What a person does with a local cluster: up, down, status, run, expose. From outside, by name."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import cgroups, example_files, hub, namespace, registry, usage
from local_cluster.errors import LocalClusterError
from local_cluster.relay import local_port, relay
from local_cluster.state import ClusterDirectory, ContainerRuntime, Outcome, Progress, Record
from local_cluster.usage import Usage

STOPS_WITHIN = 4.0
"""Seconds for the serving process to end after it was asked to."""
OTHERS_INSIDE = ("/run", "/proc")
"""Directories that are not the same inside: a command that would start in one of them starts in / instead."""


class NotRunning(LocalClusterError):
    """There is no such cluster to do this with."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node of a running cluster."""

    name: str
    ready: bool
    address: str


@dataclass(frozen=True, slots=True)
class Status:
    """A running cluster: what there is and what it takes. ``step`` is the last line of progress.

    ``registry``, ``data`` and ``hub`` are where pods reach the image registry, the data of the examples and the Hub.
    """

    name: str
    up: bool
    step: str
    seconds: float
    kubeconfig: str
    server: str
    registry: str
    data: str
    hub: str
    nodes: tuple[NodeStatus, ...]
    processes: tuple[Usage, ...]

    @property
    def rss_mb(self) -> int:
        """Memory of all its processes together."""
        return sum(process.rss_mb for process in self.processes)


def up(
    name: str,
    *,
    bare: bool,
    show: Callable[[Progress], None],
    runtime: ContainerRuntime = ContainerRuntime.PROCESSES,
) -> bool:
    """Starts the cluster and waits until it is up, telling ``show`` how it goes; False if it was up already.

    Several at once are fine: one serves, all watch. Raises LocalClusterError if it cannot come up.
    """
    directory = ClusterDirectory.of(name)
    if is_up(name):
        refuse_another(directory, name, bare=bare, runtime=runtime)
        return False
    if not directory.served():
        _spawn(name, bare=bare, runtime=runtime)
    last = Progress(0, Outcome.BEGUN, "")
    for last in directory.follow():
        show(last)
    if last.outcome is Outcome.FAILED:
        raise LocalClusterError(last.text + (f" (logs: {directory.logs})" if directory.logs.exists() else ""))
    return True


def is_up(name: str) -> bool:
    """Whether the cluster runs and has come up."""
    directory = ClusterDirectory.of(name)
    progress = directory.progress() if directory.served() else []
    return bool(progress) and progress[-1].outcome is Outcome.UP


def down(name: str) -> bool:
    """Stops the cluster and removes its directory; whether there was anything. Nothing stays behind."""
    directory = ClusterDirectory.of(name)
    existed = directory.path.exists()
    if directory.served():
        _stop(directory)
    if not existed:
        return False
    lock = directory.lock()
    if lock is None:
        raise LocalClusterError(f"cluster {name} is being started again by another process")
    try:
        cgroups.remove(cgroups.of_cluster(name))  # those of containers, if what served them could not
        directory.remove()
    finally:
        os.close(lock)
    return True


def status(name: str) -> Status:
    """What runs. Raises NotRunning."""
    directory, record = _running(name)
    progress = directory.progress()
    return Status(
        name=name,
        up=is_up(name),
        step=progress[-1].text if progress else "starting",
        seconds=round(time.time() - record.started, 1),
        kubeconfig=str(directory.kubeconfig),
        server=f"https://localhost:{record.api_port}",
        registry=f"{namespace.SYSTEM_ADDRESS}:{registry.PORT}",
        data=f"http://{namespace.SYSTEM_ADDRESS}:{example_files.PORT}",
        hub=f"http://{namespace.SYSTEM_ADDRESS}:{hub.PORT}",
        nodes=tuple(_node(node) for node in _get(directory, "nodes")["items"]) if directory.kubeconfig.exists() else (),
        processes=usage.below(record.pid),
    )


def inside(name: str, command: list[str]) -> tuple[list[str], Mapping[str, str]]:
    """The command line and environment that run ``command`` in the cluster's network. Raises NotRunning."""
    directory, record = _running(name)
    if not directory.inside_kubeconfig.exists():
        raise NotRunning(f"cluster {name} is still starting: wait for `kaito local up --name {name}`")
    here = Path.cwd()
    there = Path("/") if any(here.is_relative_to(place) for place in OTHERS_INSIDE) else here
    entered = namespace.enter(record.init_pid, user_namespace=record.user_namespace, directory=there)
    return [*entered, *command], namespace.environment()


async def expose(name: str, service: str, *, port: int | None, ready: Callable[[int], None]) -> None:
    """Relays 127.0.0.1:``port`` (default: the Service's own, 8000 added where only root may listen) to a Service.

    ``service`` is ``name`` or ``namespace/name``. Ends when cancelled; raises LocalClusterError for what does not exist
    or is taken.
    """
    directory, _ = _running(name)
    space, _, short = service.rpartition("/")
    spec = _get(directory, "service", short, "--namespace", space or "default")["spec"]
    if spec.get("clusterIP", "None") == "None":
        raise LocalClusterError(f"Service {service} has no cluster IP to relay to")
    target = spec["ports"][0]["port"]
    local = port if port is not None else (target if target >= 1024 else target + 8000)
    server = await relay(directory.socket, address=spec["clusterIP"], port=target, local_port=local)
    ready(local_port(server))
    async with server:
        await server.serve_forever()


def refuse_another(directory: ClusterDirectory, name: str, *, bare: bool, runtime: ContainerRuntime) -> None:
    """Raises LocalClusterError if the cluster that runs is not as it is asked for."""
    record = directory.record()
    if record and record.bare and not bare:
        raise LocalClusterError(f"cluster {name} runs without the operators: kaito local down --name {name}, then up")
    if record and record.runtime is not runtime:
        raise LocalClusterError(f"cluster {name} runs with {record.runtime}: kaito local down --name {name}, then up")


def _spawn(name: str, *, bare: bool, runtime: ContainerRuntime) -> None:
    """Starts the serving process, which goes into the background as soon as it, or another, holds the lock."""
    argv = [sys.executable, "-m", "local_cluster", "serve", name, f"--runtime={runtime}", *(["--bare"] if bare else [])]
    here = Path(__file__).parent.parent  # where Python finds the package even if it is not installed
    started = subprocess.run(argv, cwd=here, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if started.returncode:
        raise LocalClusterError((started.stderr.splitlines() or ["the cluster's process did not start"])[-1])


def _stop(directory: ClusterDirectory) -> None:
    """Ends the serving process, politely first; with it goes the namespace."""
    record = directory.record()
    if record is None:
        raise LocalClusterError(f"{directory.path} is being set up; try again")
    try:
        process = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        for demand in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, demand)
            if select.select([process], [], [], STOPS_WITHIN)[0]:
                return
    finally:
        os.close(process)


def _running(name: str) -> tuple[ClusterDirectory, Record]:
    directory = ClusterDirectory.of(name)
    record = directory.record() if directory.served() else None
    if record is None:
        raise NotRunning(f"cluster {name} is not running: kaito local up --name {name}")
    return directory, record


def _get(directory: ClusterDirectory, *what: str) -> Any:
    """``kubectl get … -o json`` from outside."""
    argv = [str(directory.programs / "kubectl"), "--kubeconfig", str(directory.kubeconfig), "get", *what, "-o", "json"]
    asked = subprocess.run(argv, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise LocalClusterError(asked.stderr.strip().removeprefix("Error from server "))
    return json.loads(asked.stdout)


def _node(node: Mapping[str, Any]) -> NodeStatus:
    conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
    addresses = {a["type"]: a["address"] for a in node["status"].get("addresses", [])}
    return NodeStatus(
        name=node["metadata"]["name"], ready=conditions.get("Ready") == "True", address=addresses.get("InternalIP", "")
    )
