"""Answers by a JSON schema, and calls of tools that the model must make, by each engine with the embedded model at a
high temperature, where it would babble."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_server.app import create_app
from inference_server.engines.engine import Engine, Loading
from inference_server.engines.native_engine import NativeEngine
from inference_server.settings import Settings
from tests.inference_server.test_engine_contract import MADE
from tests.inference_server.test_tools import TEMPLATES
from tests.support import vllm
from tests.support.cluster import eventually
from tests.support.openai_clients import KINDS, client_of_kind
from tests.support.serving import ServerProcess, listening, serving
from tests.support.vllm import VLLM

pytestmark = pytest.mark.server
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}


@contextmanager
def loaded(made: Callable[[Settings], Engine], model: Path, *, template: str) -> Iterator[Engine]:
    path = str(TEMPLATES / f"{template}.jinja")
    engine = made(Settings(pretrained_model_name_or_path=str(model), device_map="cpu", chat_template=path))
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=60, what="the model is loaded")
    yield engine
    engine.stop()


@asynccontextmanager
async def client_to(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(engine, Settings()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=120) as client:
        yield client


@pytest.fixture(scope="module", params=[*MADE, VLLM])
def served(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine | ServerProcess]:
    """SmolLM2 has learned no tools; its words are those of Qwen's template."""
    if request.param == vllm.ENGINE:
        template = f"--chat_template={TEMPLATES / 'qwen2_5.jinja'}"
        with serving(smollm2, *vllm.FLAGS, template, log=tmp_path_factory.mktemp("server") / "log") as process:
            process.wait_until("/readyz")
            yield process
    else:
        with loaded(MADE[request.param], smollm2, template="qwen2_5") as engine:
            yield engine


@pytest.fixture
async def client(served: Engine | ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    if isinstance(served, ServerProcess):
        async with httpx.AsyncClient(base_url=served.url, timeout=120) as client:
            yield client
    else:
        async with client_to(served) as client:
            yield client


async def asked(client: httpx.AsyncClient, schema: Any, **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "A city, as JSON."}], "max_tokens": 60, "temperature": 2, **more}
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    return await client.post("/v1/chat/completions", json={"response_format": wanted, **body})


async def test_an_answer_keeps_its_schema_beside_one_that_has_none(client: httpx.AsyncClient) -> None:
    replies = await asyncio.gather(
        asked(client, SCHEMA, seed=1),
        asked(client, SCHEMA, seed=2, min_tokens=60),  # more than fit into it: what is complete ends
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


async def test_what_is_complete_ends_also_where_the_end_is_to_be_ignored(client: httpx.AsyncClient) -> None:
    schemas, calls = await asyncio.gather(
        asked(client, SCHEMA, seed=1, ignore_eos=True), called(client, NAMED, ignore_eos=True)
    )
    assert schemas.json()["choices"][0]["finish_reason"] == "stop"
    assert schemas.json()["usage"]["completion_tokens"] < 40
    assert [name for name, _ in calls] == ["weather"]


def with_other_ends(model: Path, directory: Path) -> Path:
    """The model, whose texts end by token 3."""
    for file in model.iterdir():
        (directory / file.name).symlink_to(file)
    for name in ("config.json", "generation_config.json"):
        told = json.loads((model / name).read_text()) if (model / name).exists() else {}
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_text(json.dumps({**told, "eos_token_id": 3}))
    return directory


@pytest.mark.parametrize("made", MADE)
async def test_what_is_complete_ends_also_where_texts_end_otherwise_than_the_tokenizer_says(
    made: str, smollm2: Path, tmp_path: Path
) -> None:
    """As with models whose generation_config.json names other ends than their tokenizer's ``eos_token``."""
    with loaded(MADE[made], with_other_ends(smollm2, tmp_path), template="qwen2_5") as engine:
        async with client_to(engine) as client:
            reply = (await asked(client, SCHEMA, seed=1)).json()
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"] < 40) == ("stop", True), reply


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


NAMED = {"type": "function", "function": {"name": "weather"}}


async def called(client: httpx.AsyncClient, choice: Any, **more: Any) -> list[tuple[str, Any]]:
    turn = {"messages": [{"role": "user", "content": "Weather?"}], "max_tokens": 120, "temperature": 1.5, "seed": 1}
    body = {**turn, "tools": [WEATHER, CLOCK], "tool_choice": choice, "parallel_tool_calls": False, **more}
    reply = (await client.post("/v1/chat/completions", json=body)).json()
    answer = reply["choices"][0]
    assert (answer["finish_reason"], answer["message"]["content"]) == ("tool_calls", None), reply
    functions = [call["function"] for call in answer["message"]["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


async def test_the_model_calls_a_tool_where_it_must(client: httpx.AsyncClient) -> None:
    forced, free = await asyncio.gather(called(client, NAMED), called(client, "required"))
    [(name, arguments)] = forced
    assert (name, set(arguments)) == ("weather", {"city", "days"})
    assert (arguments["city"], arguments["days"]) in {(c, d) for c in ("Paris", "Rome") for d in (1, 2)}
    assert [name for name, _ in free] in (["weather"], ["clock"])


@pytest.mark.parametrize("family", ["gemma3", "glm4moe", "qwen3_6"])
async def test_a_call_that_must_be_comes_back_as_one_in_the_shapes_of_other_families(
    family: str, smollm2: Path
) -> None:
    with loaded(NativeEngine, smollm2, template=family) as engine:
        async with client_to(engine) as client:
            forced, free = await asyncio.gather(called(client, NAMED), called(client, "required"))
    [(name, arguments)] = forced
    assert name == "weather"
    assert (arguments["city"], arguments["days"]) in {(c, d) for c in ("Paris", "Rome") for d in (1, 2)}
    assert [name for name, _ in free] in (["weather"], ["clock"])


async def test_a_tools_schema_that_cannot_be_kept_is_the_clients_fault(client: httpx.AsyncClient) -> None:
    wrong = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": 7}}}
    body = {"messages": [{"role": "user", "content": "?"}], "tools": [wrong], "tool_choice": "required"}
    reply = await client.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error"), reply.text
    assert "tools: a schema of parameters cannot be used" in reply.json()["error"]["message"]


@pytest.fixture(scope="module")
def url(smollm2: Path) -> Iterator[str]:
    """The native engine behind a socket."""
    template = str(TEMPLATES / "qwen2_5.jinja")
    engine = MADE["native"](
        Settings(pretrained_model_name_or_path=str(smollm2), device_map="cpu", chat_template=template)
    )
    with listening(create_app(engine, Settings())) as url:
        eventually(lambda: not isinstance(engine.state, Loading), within=60, what="the model is loaded")
        yield f"{url}/v1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_clients_get_answers_by_a_schema_and_calls(url: str, kind: str) -> None:
    with client_of_kind(kind, url) as client:
        [model] = client.models.list().data
        turn = {"role": "user", "content": "A city, as JSON."}
        body: dict[str, Any] = {"model": model.id, "max_tokens": 60, "seed": 3, "messages": [turn]}
        tools: list[Any] = [WEATHER]
        schema: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
        kept = client.chat.completions.create(**body, response_format=schema).choices[0].message.content
        pieces = client.chat.completions.create(**body, response_format=schema, stream=True)
        some: Any = {"type": "json_object"}
        whatever = client.chat.completions.create(**body, response_format=some, temperature=0).choices[0]
        called = client.chat.completions.create(**body, tools=tools, tool_choice="required").choices[0]
        assert set(json.loads(kept or "")) == {"city", "big"}
        assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == kept
        assert (whatever.message.content or "").startswith("{")
        assert [call.function.name for call in called.message.tool_calls or ()][:1] == ["weather"]
