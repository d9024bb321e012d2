"""A way to an API server on which requests are answered otherwise, and watches are held back or cut."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from aiohttp import web

from local_cluster import credentials
from tests.support.control_plane import ApiServer

HOP = ("connection", "transfer-encoding", "content-length", "content-encoding", "host", "keep-alive")


@dataclass
class Fault:
    """What happens to the requests that it fits, ``times`` times."""

    request: str
    """A pattern for ``METHOD /path?query``."""
    status: int = 0
    """Answered instead, with this message."""
    message: str = "a fault that the test asked for"
    headers: dict[str, str] = field(default_factory=dict)
    reset: Literal["", "before", "after"] = ""
    """The connection breaks before the request is passed on, or after it is carried out."""
    cut: int = -1
    """So many bytes of the answer come."""
    times: int = 1
    met: int = 0

    def fits(self, line: str) -> bool:
        """Whether it happens to this request."""
        return self.met < self.times and re.search(self.request, line) is not None


@dataclass(eq=False)
class Watching:
    """A watch under way."""

    plural: str
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    last: bytes = b""
    """The line that comes before its end."""


@dataclass
class FaultProxy:
    """Passes on what it is asked, over HTTP on loopback, and does what it is told."""

    server: ApiServer
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """``METHOD /path?query`` of every request, as it came."""
    watched: list[str] = field(default_factory=list)
    """The kind of every watch, as it began to bring what happens: from then on it can be cut."""
    _held: dict[str, asyncio.Event] = field(default_factory=dict)
    _watches: list[Watching] = field(default_factory=list)

    def kubeconfig(self, directory: Path) -> Path:
        """The file by which the operator goes this way."""
        authority = self.server.plane.authority.read_bytes()
        way, token = f"http://127.0.0.1:{self.port}", self.server.tokens["operator"]
        content = credentials.kubeconfig(server=way, token=token, authority=authority, cluster="test")
        path = directory / "detour.kubeconfig"
        credentials.write_secret(path, content)
        return path

    def hold(self, *plurals: str) -> None:
        """From now on the watches of these kinds bring nothing, until released."""
        for plural in plurals:
            self._held[plural] = asyncio.Event()

    def release(self) -> None:
        """What was held back comes, in its order."""
        for event in self._held.values():
            event.set()
        self._held.clear()

    def cut_watches(self, plural: str, line: bytes = b"") -> int:
        """Ends the running watches of a kind, after this last line; how many there were."""
        cut = [each for each in self._watches if each.plural == plural and not each.cut.is_set()]
        for each in cut:
            each.last = line
            each.cut.set()
        return len(cut)

    def requests(self, pattern: str) -> list[str]:
        """Those asked for that fit."""
        return [line for line in self.asked if re.search(pattern, line)]

    async def handle(self, request: web.Request, client: aiohttp.ClientSession) -> web.StreamResponse:
        """One request."""
        line = f"{request.method} {request.raw_path}"
        self.asked.append(line)
        body = await request.read()
        fault = next((each for each in self.faults if each.fits(line)), Fault(""))
        fault.met += 1
        if fault.status:
            return _refusal(fault)
        if fault.reset == "before":
            return _break(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        url = f"{self.server.url}{request.raw_path}"
        async with client.request(request.method, url, headers=headers, data=body or None) as upstream:
            if "watch=true" in line:
                return await self._stream(request, upstream, Watching(_plural(request.path)))
            content = await upstream.read()
        if fault.reset == "after":
            return _break(request)
        kept = {name: value for name, value in upstream.headers.items() if name.lower() not in HOP}
        return web.Response(
            status=upstream.status, headers=kept, body=content[: fault.cut] if fault.cut >= 0 else content
        )

    async def _stream(
        self, request: web.Request, upstream: aiohttp.ClientResponse, watching: Watching
    ) -> web.StreamResponse:
        """Lines as they come, but for those that are held back, until it is cut or either side ends it."""
        answer = web.StreamResponse(status=upstream.status, headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        self._watches.append(watching)
        self.watched.append(watching.plural)
        passing = asyncio.create_task(self._pass(answer, upstream, watching.plural))
        cutting = asyncio.create_task(watching.cut.wait())
        try:
            await asyncio.wait((passing, cutting), return_when=asyncio.FIRST_COMPLETED)
            if watching.cut.is_set() and watching.last:
                await answer.write(watching.last + b"\n")
        finally:
            self._watches.remove(watching)
            for task in (passing, cutting):
                task.cancel()
            await asyncio.gather(passing, cutting, return_exceptions=True)
        return answer

    async def _pass(self, answer: web.StreamResponse, upstream: aiohttp.ClientResponse, plural: str) -> None:
        async for line in upstream.content:
            if (held := self._held.get(plural)) is not None:
                await held.wait()
            await answer.write(line)


def _refusal(fault: Fault) -> web.Response:
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Fault", "code": fault.status}
    return web.json_response({**told, "message": fault.message}, status=fault.status, headers=fault.headers)


def _break(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


def _plural(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


@asynccontextmanager
async def fault_proxy(server: ApiServer) -> AsyncIterator[FaultProxy]:
    """A running one."""
    trusted = ssl.create_default_context(cafile=str(server.plane.authority))
    connector = aiohttp.TCPConnector(ssl=trusted, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=2**22) as client:
        proxy = FaultProxy(server)

        async def handle(request: web.Request) -> web.StreamResponse:
            return await proxy.handle(request, client)

        app: Any = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.port = runner.addresses[0][1]
        try:
            yield proxy
        finally:
            proxy.release()
            await runner.cleanup()
