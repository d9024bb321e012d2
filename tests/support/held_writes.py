"""A way to the API server and to Azure on which a write can be held: before it is passed on, or before its answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

When = Literal["before the request", "before its answer"]
READS = ("GET", "HEAD")
OF_THE_HOP = ("connection", "content-length", "host", "keep-alive", "transfer-encoding")


@dataclass
class HeldWrites:
    """Holds the next write and all after it, on whichever way they come, until they are let go; then none arrives.

    No more than one is carried out: where several come at once, the others are lost as if they had come later.
    """

    when: When | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    what: str = ""
    """Method and path of the one that was held."""
    refused: set[str] = field(default_factory=set)
    """Those that came to nothing since the last that did not: they pass, so that what follows them is met."""
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _one_is_on_its_way: bool = False
    _ways: list[BaseTestServer] = field(default_factory=list)

    def hold(self, when: When) -> None:
        """The next one."""
        self.when, self.held, self.what, self._over = when, asyncio.Event(), "", asyncio.Event()
        self._one_is_on_its_way = False

    def let_go(self) -> None:
        """Those that are held have nobody who waits for them any more; what comes from now on passes."""
        self.when = None
        self._over.set()

    async def hung_up(self) -> None:
        """Until nobody is connected: what a killed process had sent is read by then, and not taken for the next's."""
        while any(way.handler.connections for way in self._ways):  # noqa: ASYNC110 - aiohttp tells of no end of one
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def way_to(self, upstream: str, *, authority: str = "") -> AsyncIterator[str]:
        """The address of a way to a server. ``authority``: the certificate by which a TLS server is known."""
        trusted = ssl.create_default_context(cafile=authority) if authority else None
        connector = aiohttp.TCPConnector(ssl=trusted) if trusted else aiohttp.TCPConnector()
        unlimited = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(upstream, connector=connector, timeout=unlimited) as session:

            async def pass_on(request: web.Request) -> web.StreamResponse:
                return await self._passed_on(request, session)

            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", pass_on)
            async with TestServer(app) as server:
                self._ways.append(server)
                yield str(server.make_url(""))
                self._ways.remove(server)

    async def _passed_on(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        body, what = await request.read(), f"{request.method} {request.path}"
        counts = request.method not in READS and "/leases" not in what and what not in self.refused
        if counts and self.when == "before the request":
            return await self._dead(what)
        if counts and self.when is not None:
            if self._one_is_on_its_way:
                return await self._lost()
            self._one_is_on_its_way = True
        headers = {name: told for name, told in request.headers.items() if name.lower() not in OF_THE_HOP}
        async with session.request(
            request.method, request.raw_path, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            if counts and self.when is not None:
                self.refused = {*self.refused, what} if answer.status >= 400 else set()
                return await self._dead(what)
            return await _streamed(request, answer)

    async def _dead(self, what: str) -> web.Response:
        self.what = self.what or what
        self.held.set()
        return await self._lost()

    async def _lost(self) -> web.Response:
        await self._over.wait()
        return web.Response(status=503)


async def _streamed(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Piece by piece, for a watch never ends."""
    kept = {
        name: told for name, told in answer.headers.items() if name.lower() not in (*OF_THE_HOP, "content-encoding")
    }
    response = web.StreamResponse(status=answer.status, headers=kept)
    with suppress(ConnectionResetError):  # who asked is dead
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
    return response
