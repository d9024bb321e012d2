"""Single bodies of /chat that are wrong, and what their refusal says; the grid of all values is in the file beside."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from inference_server.app import create_app
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings
from tests.support.bad_input import JSON
from tests.support.tiny_model import CONTEXT

pytestmark = pytest.mark.badinput


@pytest.fixture
async def client(tiny_engine: TransformersEngine) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(tiny_engine, Settings(max_body_bytes=1 << 20, body_seconds=0.2))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


BODIES: dict[str, tuple[bytes, int]] = {
    "content that is a list": (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', 422),
    "a role that the template refuses": (b'{"messages": [{"role": "system", "content": "w1"}]}', 400),
    "a prompt of the context's length": (json.dumps({"prompt": "w1 " * CONTEXT}).encode(), 400),
    "more sequences than beams": (
        b'{"prompt": "w1", "generate_kwargs": {"do_sample": false, "num_return_sequences": 2}}',
        400,
    ),
}


@pytest.mark.parametrize("case", BODIES)
async def test_a_body_that_is_wrong_is_refused_with_a_detail(client: httpx.AsyncClient, case: str) -> None:
    content, status = BODIES[case]
    reply = await client.post("/chat", content=content, headers=JSON)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"detail"}


async def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b" " * (1 << 16)

    reply = await client.post("/chat", content=endless(), headers=JSON)
    assert (reply.status_code, sent) == (413, (1 << 20) + (1 << 16))


async def test_a_body_that_does_not_come_is_waited_for_only_so_long(client: httpx.AsyncClient) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    reply = await client.post("/chat", content=slow(), headers=JSON)
    assert (reply.status_code, reply.json()) == (408, {"detail": "the body did not arrive within 0.2 s"})


async def test_the_wrong_method_and_path_have_the_same_envelope(client: httpx.AsyncClient) -> None:
    assert (await client.get("/chat")).json() == {"detail": "Method Not Allowed"}
    assert (await client.post("/generate", json={})).json() == {"detail": "Not Found"}


async def test_errors_never_repeat_what_was_sent(client: httpx.AsyncClient) -> None:
    reply = await client.post("/chat", json={"prompt": "w1", "generate_kwargs": {"top_k": "secret"}})
    assert reply.json() == {
        "detail": [
            {
                "type": "int_type",
                "loc": ["body", "generate_kwargs", "top_k"],
                "msg": "Input should be a valid integer",
            }
        ]
    }


async def test_fields_that_kaito_does_not_know_are_ignored_as_there(client: httpx.AsyncClient) -> None:
    reply = await client.post("/chat", json={"prompt": "w1 w2", "user": "me", "generate_kwargs": {"max_new_tokens": 2}})
    assert reply.status_code == 200
