"""Answers by a JSON schema, by both engines with the embedded model at a high temperature, where it would babble."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_server.app import create_app
from inference_server.engines.engine import Loading
from inference_server.settings import Settings
from tests.inference_server.test_engine_contract import MADE
from tests.support.cluster import eventually

pytestmark = pytest.mark.server
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}


@pytest.fixture(params=MADE)
async def client(request: pytest.FixtureRequest, smollm2: Path) -> AsyncIterator[httpx.AsyncClient]:
    engine = MADE[request.param](Settings(pretrained_model_name_or_path=str(smollm2), device_map="cpu"))
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=60, what="the model is loaded")
    transport = httpx.ASGITransport(create_app(engine, Settings()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=120) as client:
        yield client
    engine.stop()


async def asked(client: httpx.AsyncClient, schema: Any, **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "A city, as JSON."}], "max_tokens": 60, "temperature": 2, **more}
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    return await client.post("/v1/chat/completions", json={"response_format": wanted, **body})


async def test_an_answer_keeps_its_schema_beside_one_that_has_none(client: httpx.AsyncClient) -> None:
    replies = await asyncio.gather(
        *(asked(client, SCHEMA, seed=seed) for seed in range(2)),
        asked(client, {}, response_format={"type": "text"}, max_tokens=4),
    )
    for reply in replies[:2]:
        choice = reply.json()["choices"][0]
        told = json.loads(choice["message"]["content"])
        assert (set(told), choice["finish_reason"]) == ({"city", "big"}, "stop")
        assert told["city"] in {"Paris", "Rome"}
        assert isinstance(told["big"], bool)
    assert replies[2].status_code == 200
    wrong = [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}]
    for schema in wrong:
        reply = await asked(client, schema)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error"), reply.text
        assert "the schema cannot be used" in reply.json()["error"]["message"]
