"""Whatever a client sends: the right 4xx with a detail, never a 5xx, and the next request is answered.

The grid runs against transformers itself with a tiny model, so that what is let through is also survived.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from inference_server.app import create_app
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.schemas import ChatRequest, GenerateKwargs
from inference_server.settings import Settings
from tests.support.tiny_model import CONTEXT

pytestmark = pytest.mark.badinput

JSON = {"Content-Type": "application/json"}
VALUES: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "-infinity": -math.inf,
    "1e308": 1e308,
    "1e-308": 1e-308,
    "-0.0": -0.0,
    "-1": -1,
    "0": 0,
    "10**30": 10**30,
    "true": True,
    "'7'": "7",
    "null": None,
    "[]": [],
    "{}": {},
    "a long string": "x" * 100_000,
    "a lone surrogate": "\ud800",
    "NUL": "\0",
}
PARAMETERS = [*ChatRequest.model_fields, *(f"generate_kwargs.{name}" for name in GenerateKwargs.model_fields)]


@pytest.fixture
async def client(tiny_engine: TransformersEngine) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(tiny_engine, Settings(max_body_bytes=1 << 20, body_seconds=0.2))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def body_with(parameter: str, value: Any) -> dict[str, Any]:
    if not parameter.startswith("generate_kwargs."):
        return {"prompt": "w1 w2", "generate_kwargs": {"max_new_tokens": 2}, parameter: value}
    return {"prompt": "w1 w2", "generate_kwargs": {"max_new_tokens": 2, parameter.split(".")[1]: value}}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("parameter", PARAMETERS)
async def test_no_value_of_any_parameter_is_more_than_a_4xx(
    client: httpx.AsyncClient, parameter: str, value: str
) -> None:
    reply = await client.post("/chat", content=json.dumps(body_with(parameter, VALUES[value])), headers=JSON)
    content = json.loads(reply.content)
    assert reply.status_code in {200, 400, 422}, content
    assert set(content) == ({"Result"} if reply.status_code == 200 else {"detail"})
    if value in {"NaN", "infinity", "-infinity"}:
        assert reply.status_code == 422
    if value == "a lone surrogate":
        assert reply.status_code == 422


BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "nothing": (b"", JSON, 422),
    "no JSON": (b"{", JSON, 422),
    "another encoding": ('{"prompt": "é"}'.encode("latin-1"), JSON, 422),
    "a list": (b"[]", JSON, 422),
    "null": (b"null", JSON, 422),
    "100,000 brackets": (b"[" * 100_000, JSON, 422),
    "100,000 brackets in a field nobody knows": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 422),
    "a number of 5,000 digits": (b'{"prompt": "a", "generate_kwargs": {"top_k": ' + b"9" * 5000 + b"}}", JSON, 422),
    "a larger body than may be": (b'{"prompt": "' + b"a" * (1 << 20) + b'"}', JSON, 413),
    "a form": (b'{"prompt": "a"}', {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "no content type": (b'{"prompt": "a"}', {}, 415),
    "content that is a list": (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', JSON, 422),
    "a role that the template refuses": (b'{"messages": [{"role": "system", "content": "w1"}]}', JSON, 400),
    "a prompt of the context's length": (json.dumps({"prompt": "w1 " * CONTEXT}).encode(), JSON, 400),
    "more sequences than beams": (
        b'{"prompt": "w1", "generate_kwargs": {"do_sample": false, "num_return_sequences": 2}}',
        JSON,
        400,
    ),
}


@pytest.mark.parametrize("case", BODIES)
async def test_a_body_that_is_wrong_is_refused_with_a_detail(client: httpx.AsyncClient, case: str) -> None:
    content, headers, status = BODIES[case]
    reply = await client.post("/chat", content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert status == 200 or set(reply.json()) == {"detail"}


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
