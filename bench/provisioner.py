"""gpu-provisioner on a real API server and Azure's stand-in, throttled as Azure is: time, calls, memory."""

import asyncio
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.figures import Figure, measure
from kaito_operator.api import crd
from local_cluster.azure import AzureStandIn
from tests.support.azure import Azure, running
from tests.support.control_plane import ApiServer, api_server, establish
from tests.support.joins_as_node import NODES, JoinsAsNode
from tests.support.machines import a_machine
from tests.support.provisioner_process import Provisioner, provisioner
from tests.support.waiting import eventually

MACHINES = "/apis/karpenter.sh/v1alpha5/machines"
PATIENCE = 900.0
CHURN_SECONDS, CHURN_MACHINES = 60.0, 10
LIVES_BEFORE_IT_COUNTS = 20
"""After so many lives whatever is loaded once is loaded: growth is measured from there."""


@dataclass
class Clouded:
    """The stand-in, on an event loop in a thread of its own: whoever measures may block."""

    server: ApiServer
    settings: dict[str, Any]
    azure: Azure = field(init=False)
    _up: threading.Event = field(default_factory=threading.Event)
    _end: asyncio.Event = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(init=False)

    @contextmanager
    def serving(self) -> Iterator[Azure]:
        """While it serves."""
        thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        thread.start()
        self._up.wait(20)
        try:
            yield self.azure
        finally:
            self._loop.call_soon_threadsafe(self._end.set)
            thread.join(30)

    async def _serve(self) -> None:
        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with AsyncExitStack() as held:
            stand_in = AzureStandIn(JoinsAsNode(self.server), **self.settings)
            self.azure = await held.enter_async_context(running(stand_in))
            self._up.set()
            await self._end.wait()


@measure("provisioner.50.")
def fifty_at_once() -> Iterator[Figure]:
    """Whose machines boot in 5 s."""
    with _api_server() as (server, directory):
        yield from _at_once(server, directory, 50)


@measure("provisioner.100.")
def a_hundred_at_once() -> Iterator[Figure]:
    """As many as a cluster has pools."""
    with _api_server() as (server, directory):
        yield from _at_once(server, directory, 100)


@measure("provisioner.churn.")
def churn() -> Iterator[Figure]:
    """A minute of coming and going, time sped up."""
    with _api_server() as (server, directory):
        yield from _churn(server, directory)


@contextmanager
def _api_server() -> Iterator[tuple[ApiServer, Path]]:
    with tempfile.TemporaryDirectory() as directory, api_server(Path(directory)) as server:
        establish(server, crd.definition(crd.MACHINE))
        yield server, Path(directory)


def _at_once(server: ApiServer, directory: Path, count: int) -> Iterator[Figure]:
    name, names = f"provisioner.{count}", [f"b{count}x{number}" for number in range(count)]
    with (
        Clouded(server, {"boot_seconds": 5.0}).serving() as azure,
        _process(server, directory, azure, KAITO_MOST_POOLS="100") as process,
    ):
        history = azure.stand_in.history
        asked = time.monotonic()
        for each in names:
            _ask_for(server, each)
        eventually(lambda: _ready(server) == count, within=PATIENCE, what=f"{count} Machines are Ready")
        yield Figure(f"{name}.last_ready_s", time.monotonic() - asked, "s")
        yield from _calls(f"{name}.up", history, count)
        history.clear()
        deleted = time.monotonic()
        for each in names:
            server.ask("DELETE", f"{MACHINES}/{each}")
        eventually(lambda: not server.ask("GET", MACHINES)["items"], within=PATIENCE, what="all are gone")
        yield Figure(f"{name}.last_gone_s", time.monotonic() - deleted, "s")
        yield from _calls(f"{name}.down", history, count)
        yield Figure(f"{name}.rss_mb", psutil.Process(process.process.pid).memory_info().rss / 1e6, "MB")
        yield Figure(f"{name}.pools_left", len(azure.stand_in.pools.by_name), "")


def _calls(name: str, history: list[dict[str, Any]], count: int) -> Iterator[Figure]:
    """Calls a Machine by class, those that were throttled, and pools made."""
    calls = list(history)
    for kind, number in sorted(Counter(call["class"] for call in calls).items()):
        yield Figure(f"{name}.{kind}_per_machine", number / count, "")
    yield Figure(f"{name}.throttled", sum(call["status"] == 429 for call in calls), "")
    yield Figure(f"{name}.pools_made", sum((c["method"], c["carried_out"]) == ("PUT", 201) for c in calls), "")


def _churn(server: ApiServer, directory: Path) -> Iterator[Figure]:
    """Machines come and go, time sped up; what is left of them at the end, and how the process has grown."""
    quick = {
        "KAITO_POLL_SECONDS": "0.3",
        "KAITO_GONE_SECONDS": "0.3",
        "KAITO_CREATES_PER_10_MINUTES": "100000",
        "KAITO_AZURE_REQUESTS_PER_SECOND": "1000",
    }
    with (
        Clouded(server, {"boot_seconds": 0.1, "throttled": False}).serving() as azure,
        _process(server, directory, azure, **quick) as running_process,
    ):
        process = psutil.Process(running_process.process.pid)
        lives, begun, deadline = 0, dict[str, int](), time.monotonic() + CHURN_SECONDS
        while time.monotonic() < deadline or len(begun) < 3:
            lives = _lived(server, lives)
            if lives >= LIVES_BEFORE_IT_COUNTS and not begun:
                begun = _size(process)
        ended = _size(process)
        yield Figure("provisioner.churn.lives", lives, "")
        made = sum((c["method"], c["carried_out"]) == ("PUT", 201) for c in azure.stand_in.history)
        yield Figure("provisioner.churn.pools_made", made, "")
        yield Figure("provisioner.churn.pools_left", len(azure.stand_in.pools.by_name), "")
        yield Figure("provisioner.churn.nodes_left", len(server.ask("GET", NODES)["items"]), "")
        for what, before in begun.items():
            yield Figure(f"provisioner.churn.grown_{what}", ended[what] - before, "")


def _lived(server: ApiServer, before: int) -> int:
    """A handful of Machines from wish to end; how many there have been by now."""
    names = [f"c{before + number}" for number in range(CHURN_MACHINES)]
    for name in names:
        _ask_for(server, name)
    eventually(lambda: _ready(server) == len(names), within=PATIENCE, what="they are Ready")
    for name in names:
        server.ask("DELETE", f"{MACHINES}/{name}")
    eventually(lambda: not server.ask("GET", MACHINES)["items"], within=PATIENCE, what="they are gone")
    return before + len(names)


def _size(process: psutil.Process) -> dict[str, int]:
    return {
        "rss_kb": process.memory_info().rss // 1000,
        "file_descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


def _ask_for(server: ApiServer, name: str) -> None:
    made = a_machine(name=name)
    meta = {key: made["metadata"][key] for key in ("name", "labels", "annotations")}
    server.ask("POST", MACHINES, {**made, "metadata": meta})


def _ready(server: ApiServer) -> int:
    """How many Machines are."""
    machines = server.ask("GET", MACHINES)["items"]
    conditions = [(machine.get("status") or {}).get("conditions") or () for machine in machines]
    return sum(any(c["type"] == "Ready" and c["status"] == "True" for c in each) for each in conditions)


@contextmanager
def _process(server: ApiServer, directory: Path, azure: Azure, **settings: str) -> Iterator[Provisioner]:
    token = directory / "azure-token"
    token.write_text("x")
    more = {"KAITO_AZURE_STATIC_TOKEN_FILE": str(token), "KAITO_LOG_LEVEL": "WARNING", **settings}
    with provisioner(server, "default", directory / "provisioner.log", endpoint=azure.url, **more) as process:
        eventually(lambda: process.readiness()[0] == 200, within=30, what="it is ready")
        yield process
