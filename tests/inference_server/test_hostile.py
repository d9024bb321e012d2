"""What the network does to a server: bodies of 100 MB, slow ones, half-open connections, clients that go away; through
a real socket, while another client is answered."""

import asyncio
import contextlib
import gc
import json
import os
import random
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

import httpx
import pytest

from inference_server.app import create_app
from inference_server.engines.engine import Generation, Step
from inference_server.limits import Admission
from inference_server.settings import Settings
from tests.support.cluster import eventually
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import listening

pytestmark = pytest.mark.badinput
MEGABYTE = 1 << 20
ROUND = int(os.environ.get("SOAK_ROUND", "200"))
"""Requests in each of ten rounds; with SOAK_ROUND=1000 they are ten thousand, in a minute."""
PATHS = ("/chat", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
HEAD = "POST {path} HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"
PROMPT = {"prompt": "why is it so"}


@dataclass(frozen=True)
class Server:
    """A server and the door that it lets requests in by."""

    url: str
    door: Admission
    engine: ScriptedEngine

    def connect(self) -> socket.socket:
        """A connection of our own, to misuse."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def answers(self) -> bool:
        """Whether somebody else is answered now."""
        reply = httpx.post(f"{self.url}/chat", json=PROMPT, timeout=30)
        return bool(reply.json() == {"Result": "why is it so so it is ."})


@contextlib.contextmanager
def serving(*, body_seconds: float) -> Iterator[Server]:
    engine, door = ScriptedEngine(), Admission(places=lambda: 8)
    app = create_app(engine, Settings(max_body_bytes=MEGABYTE, body_seconds=body_seconds), admission=door)
    with listening(app) as url:
        yield Server(url, door, engine)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(body_seconds=60) as made:
        yield made


def status_of(connection: socket.socket) -> int:
    """The status of the reply; 0 if the server hangs up without one."""
    with connection.makefile("rb") as reply, contextlib.suppress(OSError):
        line = reply.readline().split()
        return int(line[1]) if line else 0
    return 0


@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_100_megabytes_is_refused_by_its_declared_length(server: Server, path: str) -> None:
    with server.connect() as connection:
        connection.sendall(f"{HEAD.format(path=path)}Content-Length: {100 * MEGABYTE}\r\n\r\n".encode())
        assert status_of(connection) == 413
    assert server.answers()


def test_a_body_of_100_megabytes_in_chunks_is_refused_when_it_is_too_large(server: Server) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(f"{HEAD.format(path='/v1/completions')}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(100 * MEGABYTE // 0x10000):
            connection.sendall(chunk)  # is thrown away from the first megabyte on, so that the reply can be read
        assert status_of(connection) == 413
    assert server.answers()


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_comes_too_slowly_is_given_up(path: str) -> None:
    with serving(body_seconds=2) as server, server.connect() as connection:
        connection.sendall(f'{HEAD.format(path=path)}Content-Length: 100\r\n\r\n{{"prompt"'.encode())
        assert server.answers()
        assert status_of(connection) == 408
        eventually(lambda: server.door.inside == 0, within=20, what="its place is free")


def test_hundreds_of_half_open_connections_keep_nobody_out(server: Server) -> None:
    connections = [server.connect() for _ in range(300)]
    for number, connection in enumerate(connections):
        head = HEAD.format(path="/chat").encode()
        connection.sendall(head[: number % len(head)] or b"P")
    assert server.answers()
    assert httpx.get(f"{server.url}/healthz", timeout=60).status_code == 200
    for connection in connections:
        connection.close()
    assert server.answers()
    assert server.door.inside == 0


@pytest.mark.parametrize("sent", [b"\x00\xff" * 2000, b"POST /chat HTTP/1.1\r\nContent-Length: -1\r\n\r\n"])
def test_what_is_no_http_is_answered_400_or_hung_up_on(server: Server, sent: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        assert status_of(connection) in {400, 0}
    assert server.answers()


TURN = b'{"messages": [{"role": "user", "content": "a"}], '
DEEP = {
    "lists": b"[" * 200_000,
    "a conversation": b'{"messages": ' + b'[{"content":' * 50_000,
    "a schema": TURN + b'"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": '
    + b'{"properties": {"a": ' * 100 + b"{}" + b"}}" * 100 + b"}}}",
    "tools": TURN + b'"tools": [{"type": "function", "function": {"name": "f", "parameters": '
    + b'{"a": ' * 400 + b"{}" + b"}" * 400 + b"}}]}",
}  # fmt: skip


@pytest.mark.parametrize("what", DEEP)
@pytest.mark.parametrize("path", PATHS)
def test_deep_json_is_refused_or_answered_and_never_a_fault(server: Server, path: str, what: str) -> None:
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{server.url}{path}", content=DEEP[what], headers=headers, timeout=60)
    assert reply.status_code in {200, 400, 422}, reply.text
    assert server.answers()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_leaves_its_place(stream: bool) -> None:
    engine, door = ScriptedEngine(held=True), Admission(places=lambda: 8)
    with listening(create_app(engine, Settings(), admission=door)) as url:
        server = Server(url, door, engine)
        body = json.dumps({**PROMPT, "stream": stream, "max_tokens": 4}).encode()
        with server.connect() as connection:
            head = f"{HEAD.format(path='/v1/completions')}Content-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            eventually(lambda: engine.asked, within=20, what="the request is with the engine")
        eventually(lambda: engine.abandoned == 1 and door.inside == 0, within=20, what="its place is free")


async def ask(client: httpx.AsyncClient, rng: random.Random) -> int:
    """One request of random kind and length, and a client that may lose patience; the status, 0 if it did."""
    path, field = rng.choice([("/chat", {}), ("/v1/completions", {"stream": rng.random() < 0.5})])
    body = {"prompt": "w " * rng.randint(1, 40), **field}
    most = rng.randint(1, 12)
    body |= {"generate_kwargs": {"max_new_tokens": most}} if path == "/chat" else {"max_tokens": most}
    request = asyncio.ensure_future(client.post(path, json=body))
    if rng.random() < 0.3:
        for _ in range(rng.randint(0, 30)):
            await asyncio.sleep(0)
        request.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        return (await request).status_code
    return 0


class Breathing(ScriptedEngine):
    """Lets other tasks run after each word, as an engine does whose words come from another thread."""

    async def generate(self, request: Generation) -> AsyncGenerator[Step]:
        async with contextlib.aclosing(super().generate(request)) as steps:
            async for step in steps:
                await asyncio.sleep(0)
                yield step


async def test_requests_of_random_length_and_patience_leave_nothing_behind() -> None:
    threads = threading.active_count()
    engine, door, rng = Breathing(" ".join("abcdefghij")), Admission(places=lambda: 64), random.Random(6)
    app = create_app(engine, Settings(), admission=door)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server") as client,
    ):
        counted = [await round_of(client, rng, ROUND)]
        engine.asked.clear()
        before = objects()
        for _ in range(9):
            counted.append(await round_of(client, rng, ROUND))
            engine.asked.clear()
        after = objects()
        text = (await client.get("/metrics")).text
    assert sum(sum(each.values()) for each in counted) == 10 * ROUND
    assert {status for each in counted for status in each} == {0, 200}
    assert door.inside == 0
    assert engine.load.running == 0
    assert "kaito_inference_requests_inside 0.0" in text
    assert len(asyncio.all_tasks()) == 1
    assert threading.active_count() < threads + 100, "threads that stay, beside the pool that Starlette computes in"
    assert after <= before * 1.02, "objects in memory grew by more than 2 %"


async def round_of(client: httpx.AsyncClient, rng: random.Random, number: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for _ in range(number // 50):
        for status in await asyncio.gather(*(ask(client, rng) for _ in range(50))):
            found[status] = found.get(status, 0) + 1
    return found


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())
