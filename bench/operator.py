"""The Workspace operator on a real control plane, and nothing else that takes time: how fast, how large."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from bench.figures import Figure, measure
from tests.support.control_plane import ApiServer, api_server, establish
from tests.support.ports import free_ports
from tests.support.stub_world import StubWorld, stub_world
from tests.support.waiting import eventually

CRDS = ("workspace", "gpu-provisioner")
CHARTS = Path(__file__).parent.parent / "charts"
PATIENCE = 600.0
IDLE_SECONDS = 30.0


@contextmanager
def _server() -> Iterator[ApiServer]:
    with tempfile.TemporaryDirectory() as directory, api_server(Path(directory)) as server:
        for chart in CRDS:
            for path in sorted((CHARTS / chart / "files/crds").glob("*.yaml")):
                establish(server, yaml.safe_load(path.read_text()))
        yield server


@measure("operator.1.")
def one() -> Iterator[Figure]:
    """1 Workspace."""
    with _server() as server:
        yield from _run(server, 1, boot_seconds=0.0)


@measure("operator.20.")
def twenty() -> Iterator[Figure]:
    """20 Workspaces at once."""
    with _server() as server:
        yield from _run(server, 20, boot_seconds=0.0)


@measure("operator.100.")
def hundred() -> Iterator[Figure]:
    """100 Workspaces at once, and 100 whose machines take 5 s."""
    with _server() as server:
        for boot in (0.0, 5.0):
            yield from _run(server, 100, boot_seconds=boot)


@measure("operator.1000.")
def thousand() -> Iterator[Figure]:
    """1,000 Workspaces at once."""
    with _server() as server:
        yield from _run(server, 1000, boot_seconds=0.0)


@measure("operator.trickle.")
def trickle() -> Iterator[Figure]:
    """100 Workspaces one after another, ten a second: how long from an event to the first write that answers it."""
    with _server() as server, _process(server):
        start = server.now()
        asyncio.run(_one_after_another(server, 100, seconds=0.1))
        waits = sorted(start.first_answers("workspaces").values())
        yield Figure("operator.trickle.event_to_write_p50_ms", 1000 * waits[len(waits) // 2], "ms")
        yield Figure("operator.trickle.event_to_write_p99_ms", 1000 * waits[int(len(waits) * 0.99) - 1], "ms")
        quiet = server.now()
        threading.Event().wait(IDLE_SECONDS)
        asked = [told for told in quiet.requests() if not told.startswith("watch ") and "leases" not in told]
        yield Figure("operator.trickle.idle_requests_a_minute", len(asked) * 60 / IDLE_SECONDS, "")


@measure("operator.stuck.")
def stuck() -> Iterator[Figure]:
    """10 good Workspaces behind 6 whose Machines never come, and 10 alone."""
    with _server() as server:
        with _process(server):
            alone = asyncio.run(_behind(server, good=10, never=0))
        with _process(server):
            behind = asyncio.run(_behind(server, good=10, never=6))
        yield Figure("operator.stuck.last_good_ready_s", behind, "s", baseline=alone)


async def _one_after_another(server: ApiServer, count: int, *, seconds: float) -> None:
    async with stub_world(server, boot_seconds=0.0) as world:
        for index in range(count):
            await _create(world, f"t{index}")
            await asyncio.sleep(seconds)
        await world.all_ready(count, within=PATIENCE)


async def _behind(server: ApiServer, *, good: int, never: int) -> float:
    """Seconds until the last good one is Ready."""
    async with stub_world(server, boot_seconds=0.0) as world:
        run = time.monotonic_ns()
        world.never = {f"n{run}-{index}" for index in range(never)}
        for name in sorted(world.never):
            await _create(world, name)
        names = {f"g{run}-{index}" for index in range(good)}
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(_create(world, name) for name in sorted(names)))
        await world.are_ready(names, within=PATIENCE)
        return max(world.ready[name] for name in names) - started


def _run(server: ApiServer, count: int, *, boot_seconds: float) -> Iterator[Figure]:
    name = f"operator.{count}" + (".boot" if boot_seconds else "")
    with _process(server) as process:
        start, counted = server.now(), list[tuple[int, int]]()

        def look() -> None:
            process.look()
            asked = [told for told in start.requests() if not told.startswith("watch ") and "leases" not in told]
            counted.append((len(asked), len(start.writes())))

        ready, deleted = asyncio.run(_lives(server, count, boot_seconds=boot_seconds, once_ready=look))
        ((requests, writes),) = counted
        yield Figure(f"{name}.last_ready_s", ready, "s")
        yield Figure(f"{name}.requests_per_workspace", requests / count, "")
        yield Figure(f"{name}.writes_per_workspace", writes / count, "")
        yield Figure(f"{name}.rss_mb", max(process.megabytes), "MB")
        yield Figure(f"{name}.delete_s", deleted, "s")


async def _lives(
    server: ApiServer, count: int, *, boot_seconds: float, once_ready: Callable[[], None]
) -> tuple[float, float]:
    """Seconds until the last is Ready, and until the last is gone. Names do not repeat from run to run."""
    names = [f"w{time.monotonic_ns()}-{index}" for index in range(count)]
    loop = asyncio.get_running_loop()
    async with stub_world(server, boot_seconds=boot_seconds) as world:
        started = loop.time()
        await asyncio.gather(*(_create(world, name) for name in names))
        await world.all_ready(count, within=PATIENCE)
        once_ready()
        deleting = loop.time()
        await asyncio.gather(*(world.write("DELETE", _path(name), {}) for name in names))
        await world.all_gone(count, within=PATIENCE)
        return max(world.ready.values()) - started, max(world.gone.values()) - deleting


def _path(name: str = "") -> str:
    return f"/apis/kaito.sh/v1alpha1/namespaces/default/workspaces/{name}".rstrip("/")


async def _create(world: StubWorld, name: str) -> None:
    manifest = {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"instanceType": "Standard_D2s_v5", "labelSelector": {"matchLabels": {"app": name}}},
        "inference": {"preset": {"name": "smollm2-135m-instruct"}},
    }
    await world.write("POST", _path(), manifest)


class _Process:
    """The running operator, and its resident memory as it was looked at, in MB."""

    def __init__(self, pid: int) -> None:
        self._process, self.megabytes = psutil.Process(pid), list[float]()

    def look(self) -> None:
        """Looks once."""
        self.megabytes.append(self._process.memory_info().rss / 1e6)


@contextmanager
def _process(server: ApiServer) -> Iterator[_Process]:
    metrics, health = free_ports(2)
    environment = {
        **os.environ,
        "RELEASE_NAMESPACE": "default",
        "KAITO_MODEL_FILES": "baked",
        "KAITO_METRICS_PORT": str(metrics),
        "KAITO_HEALTH_PORT": str(health),
        "KAITO_LOG_LEVEL": "WARNING",
        "POD_NAME": "bench",
    }
    start = server.now()
    command = [sys.executable, "-m", "kaito_operator", "workspace", "--kubeconfig", str(server.kubeconfig())]
    with subprocess.Popen(command, env=environment) as running:
        try:
            eventually(lambda: "watch pods" in start.requests(), within=30, what="the operator watches")
            yield _Process(running.pid)
        finally:
            running.terminate()
            running.wait(20)
