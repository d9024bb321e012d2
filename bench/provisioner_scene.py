"""What measures of gpu-provisioner share: an API server, Azure's stand-in beside it, the process, and its Machines."""

import asyncio
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kaito_operator.api import crd
from local_cluster.azure import AzureStandIn
from tests.support.azure import Azure, running
from tests.support.control_plane import ApiServer, api_server, establish
from tests.support.joins_as_node import JoinsAsNode
from tests.support.machines import a_machine
from tests.support.provisioner_process import Provisioner, provisioner
from tests.support.waiting import eventually

READY = ("Ready", "True")
MACHINES = "/apis/karpenter.sh/v1alpha5/machines"


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

    def asked(self, method: str, path: str, **request: Any) -> None:
        """A request to it, as any client might send one."""
        asyncio.run_coroutine_threadsafe(self.azure.ask(method, path, **request), self._loop).result(60)

    async def _serve(self) -> None:
        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with AsyncExitStack() as held:
            stand_in = AzureStandIn(JoinsAsNode(self.server), **self.settings)
            self.azure = await held.enter_async_context(running(stand_in))
            self._up.set()
            await self._end.wait()


@contextmanager
def a_server() -> Iterator[tuple[ApiServer, Path]]:
    """An API server that knows Machines, and a directory."""
    with tempfile.TemporaryDirectory() as directory, api_server(Path(directory)) as server:
        establish(server, crd.definition(crd.MACHINE))
        yield server, Path(directory)


def size(process: Provisioner) -> dict[str, int]:
    """What it takes of the machine now."""
    seen, tasks = psutil.Process(process.process.pid), re.search(r"(?m)^python_asyncio_tasks (\S+)", process.metrics())
    return {
        "rss_kb": seen.memory_info().rss // 1000,
        "file_descriptors": seen.num_fds(),
        "threads": seen.num_threads(),
        "tasks": round(float(tasks[1])) if tasks else 0,
    }


def ask_for(server: ApiServer, name: str) -> None:
    """A Machine of the name."""
    made = a_machine(name=name)
    meta = {key: made["metadata"][key] for key in ("name", "labels", "annotations")}
    server.ask("POST", MACHINES, {**made, "metadata": meta})


def give_up(server: ApiServer, name: str) -> None:
    """The Machine of the name is deleted."""
    server.ask("DELETE", f"{MACHINES}/{name}")


def all_gone(server: ApiServer) -> bool:
    """Whether there is no Machine any more."""
    return not server.ask("GET", MACHINES)["items"]


def told(server: ApiServer) -> dict[str, str]:
    """What the Machines say of themselves."""
    machines = server.ask("GET", MACHINES)["items"]
    conditions = {m["metadata"]["name"]: (m.get("status") or {}).get("conditions") or () for m in machines}
    return {
        name: f"{c['reason']}: {c['message']}"
        for name, each in conditions.items()
        for c in each
        if c["type"] == READY[0]
    }


def ready(server: ApiServer) -> set[str]:
    """The Machines that are."""
    machines = server.ask("GET", MACHINES)["items"]
    conditions = {m["metadata"]["name"]: (m.get("status") or {}).get("conditions") or () for m in machines}
    return {name for name, each in conditions.items() if any((c["type"], c["status"]) == READY for c in each)}


@contextmanager
def process_of(server: ApiServer, directory: Path, azure: Azure, **settings: str) -> Iterator[Provisioner]:
    """The process, once it is ready."""
    token = directory / "azure-token"
    token.write_text("x")
    more = {"KAITO_AZURE_STATIC_TOKEN_FILE": str(token), "KAITO_LOG_LEVEL": "WARNING", **settings}
    with provisioner(server, "default", directory / "provisioner.log", endpoint=azure.url, **more) as process:
        eventually(lambda: process.readiness()[0] == 200, within=30, what="it is ready")
        yield process
