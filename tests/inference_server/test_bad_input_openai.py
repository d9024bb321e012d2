"""How long a prompt of the OpenAI API may be, and paths that it has not; the grid is in the file beside."""

from collections.abc import AsyncIterator

import httpx
import pytest

from inference_server.app import create_app
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings
from tests.support.bad_input import right_envelope
from tests.support.tiny_model import CONTEXT

pytestmark = pytest.mark.badinput


@pytest.fixture
async def client(tiny_engine: TransformersEngine) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(tiny_engine, Settings(max_body_bytes=1 << 20, body_seconds=0.2))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT, CONTEXT + 1])
async def test_a_prompt_may_be_one_token_shorter_than_the_context(client: httpx.AsyncClient, length: int) -> None:
    reply = await client.post("/v1/completions", json={"prompt": [10] * length, "max_tokens": 4})
    if length < CONTEXT:
        assert reply.json()["usage"]["completion_tokens"] == 1
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_unknown_paths_and_methods_under_v1_have_the_envelope(client: httpx.AsyncClient) -> None:
    for reply in (await client.get("/v1/chat/completions"), await client.post("/v1/embeddings", json={})):
        assert reply.status_code in {404, 405}
        assert right_envelope("/v1/", reply.json())
