"""A server that is full refuses before it reads: over real sockets, in the words of each API, and connections go on."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_server.app import create_app
from inference_server.limits import Admission
from inference_server.settings import Settings
from tests.inference_server.test_app import PROMPT, client_of, metric
from tests.inference_server.test_keys import bearer
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import listening

FULL = "every place is taken by requests that are answered or wait: come again later"
SAID = {
    "/chat": {"detail": FULL},
    "/v1/completions": {"error": {"message": FULL, "type": "rate_limit_error", "param": None, "code": None}},
    "/v1/chat/completions": {"error": {"message": FULL, "type": "rate_limit_error", "param": None, "code": None}},
}
LEAVING = "the server is about to stop"


class Full(Admission):
    """One place, and somebody has it."""

    def __init__(self) -> None:
        super().__init__(places=lambda: 1)
        self.inside = 1


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with listening(create_app(ScriptedEngine(), Settings(), admission=Full())) as url:
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


def reply_to(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next reply."""
    with connection.makefile("rb", buffering=0) as stream:
        status = int(stream.readline().split()[1])
        lines = iter(stream.readline, b"\r\n")
        headers = {name.lower(): value for name, _, value in (line.decode().strip().partition(": ") for line in lines)}
        return status, headers, stream.read(int(headers["content-length"]))


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: server", *headers, "", "")).encode()


@pytest.mark.parametrize("path", SAID)
def test_the_refusal_comes_before_the_body_and_the_connection_serves_the_next_try(
    address: tuple[str, int], path: str
) -> None:
    body = b" " * 300_000
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(3):
            connection.sendall(head(path, f"Content-Length: {len(body)}"))
            status, headers, said = reply_to(connection)
            connection.sendall(body)  # as a client does that reads no reply before it has sent everything
            assert (status, headers["retry-after"], json.loads(said)) == (429, "2", SAID[path])
            assert headers["content-type"] == "application/json"
            assert headers["x-request-id"]
            assert "connection" not in headers


@pytest.mark.parametrize("path", SAID)
def test_who_waits_before_sending_a_body_is_told_that_the_connection_ends(address: tuple[str, int], path: str) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head(path, "Content-Length: 9", "Expect: 100-continue"))
        status, headers, said = reply_to(connection)
        assert (status, headers["connection"], json.loads(said)) == (429, "close", SAID[path])
        assert connection.recv(1) == b""


def test_chunks_are_thrown_away_too(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(2):
            connection.sendall(head("/v1/completions", "Transfer-Encoding: chunked") + b'5\r\n{"pro\r\n')
            assert reply_to(connection)[0] == 429
            connection.sendall(b"3\r\nmpt\r\n0\r\n\r\n")


@pytest.mark.parametrize("path", SAID)
async def test_nothing_of_the_body_is_asked_for(path: str) -> None:
    app, sent = create_app(ScriptedEngine(), Settings(), admission=Full()), []

    async def receive() -> dict[str, object]:
        raise AssertionError("a body was asked for")

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)  # type: ignore[arg-type]  # starlette's types are wider
    assert [message.get("status") for message in sent] == [429, None]


async def test_what_takes_no_place_is_answered_all_the_while() -> None:
    async with client_of(ScriptedEngine(), admission=Full()) as client:
        statuses = [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/v1/models", "/chat")]
        counted = (await client.post("/tokenize", json={"prompt": "why is it so"})).json()["count"]
        await client.post("/v1/completions", json=PROMPT)
        await client.post("/chat", json=PROMPT)
        text = (await client.get("/metrics")).text
    assert (statuses, counted) == ([200, 200, 200, 405], 4)
    assert metric(text, "kaito_inference_requests_total", status="429") == 2


@pytest.mark.security
async def test_a_stranger_to_the_keys_does_not_learn_that_the_server_is_full(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("right\n")
    async with client_of(ScriptedEngine(), admission=Full(), api_keys_file=str(tmp_path / "keys")) as client:
        statuses = {
            key: (await client.post("/v1/completions", json=PROMPT, headers=bearer(key))).status_code
            for key in ("right", "wrong", "")
        }
    assert statuses == {"right": 429, "wrong": 401, "": 401}


async def test_a_browser_of_an_allowed_origin_may_read_the_refusal() -> None:
    async with client_of(ScriptedEngine(), admission=Full(), allowed_origin=("http://page",)) as client:
        reply = await client.post("/chat", json=PROMPT, headers={"Origin": "http://page"})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (429, "http://page")


async def test_a_server_that_is_about_to_stop_refuses_as_early() -> None:
    door = Admission(places=lambda: 1)
    async with client_of(ScriptedEngine(), admission=door) as client:
        door.close()
        replies = [await client.post(path, content=b"no json") for path in SAID]
    assert [(reply.status_code, reply.headers["retry-after"]) for reply in replies] == [(503, "5")] * 3
    assert [reply.json() for reply in replies] == [
        {"detail": LEAVING},
        *[{"error": {"message": LEAVING, "type": "server_error", "param": None, "code": None}}] * 2,
    ]
