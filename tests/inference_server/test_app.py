"""The server over a scripted engine: probes, statuses, queue, drain, disconnect, metrics."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference_server.app import create_app
from inference_server.engines.engine import Failed, InvalidParameters, Loading, OutOfMemory, Ready
from inference_server.limits import Admission
from inference_server.server import places
from inference_server.settings import Settings
from tests.support.scripted_engine import ScriptedEngine

PROMPT = {"prompt": "why is it so"}


@asynccontextmanager
async def client_of(
    engine: ScriptedEngine, *, started: bool = True, admission: Admission | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(engine, Settings(**settings), admission=admission)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        if not started:
            yield client
            return
        async with app.router.lifespan_context(app):
            yield client


def metric(text: str, name: str, **labels: str) -> float:
    """The value of one sample in Prometheus' text."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


async def until(condition: Any) -> None:
    """Lets the other tasks run until the condition holds."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0)


async def test_a_prompt_is_answered() -> None:
    async with client_of(ScriptedEngine()) as client:
        reply = await client.post("/chat", json=PROMPT)
    assert (reply.status_code, reply.json()) == (200, {"Result": "why is it so so it is ."})


async def test_the_root_says_that_the_server_runs() -> None:
    async with client_of(ScriptedEngine()) as client:
        assert (await client.get("/")).json() == {"message": "Server is running"}


async def test_while_the_model_loads_the_server_lives_is_not_ready_and_says_how_far_it_is() -> None:
    progress = "reading the weights, 3 s"
    async with client_of(ScriptedEngine(), started=False) as client:
        live, ready, reply = (
            await client.get("/healthz"),
            await client.get("/readyz"),
            await client.post("/chat", json=PROMPT),
        )
    assert (live.status_code, live.json()) == (200, {"status": "Healthy", "loading": progress})
    assert (ready.status_code, ready.json()) == (503, {"status": "loading", "progress": progress})
    assert (reply.status_code, reply.json()) == (503, {"detail": f"the model is not loaded yet: {progress}"})
    assert reply.headers["retry-after"] == "5"


async def test_a_loaded_model_is_ready() -> None:
    async with client_of(ScriptedEngine()) as client:
        live, ready = await client.get("/healthz"), await client.get("/readyz")
    assert (live.status_code, live.json()) == (200, {"status": "Healthy"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "model": "scripted"})


async def test_a_model_that_cannot_be_loaded_is_not_ready_and_says_why() -> None:
    engine = ScriptedEngine()
    async with client_of(engine) as client:
        engine.state = Failed("OSError: no file model.safetensors")
        ready, reply = await client.get("/readyz"), await client.post("/chat", json=PROMPT)
    assert (ready.status_code, ready.json()["reason"]) == (503, "OSError: no file model.safetensors")
    assert (reply.status_code, reply.json()["detail"]) == (
        503,
        "the model could not be loaded: OSError: no file model.safetensors",
    )


async def test_who_is_inside_when_the_door_closes_is_answered_and_nobody_else() -> None:
    engine, door = ScriptedEngine(held=True), Admission(places=lambda: 4)
    async with client_of(engine, admission=door) as client:
        inside = asyncio.create_task(client.post("/chat", json=PROMPT))
        await until(lambda: engine.asked)
        door.close()
        ready, late = await client.get("/readyz"), await client.post("/chat", json=PROMPT)
        engine.allow()
        answered = await inside
    assert (ready.status_code, ready.json()) == (503, {"status": "draining", "answering": 1})
    assert (late.status_code, late.json()) == (503, {"detail": "the server is about to stop"})
    assert answered.status_code == 200


async def test_more_requests_than_places_are_refused_with_when_to_come_again() -> None:
    engine = ScriptedEngine(held=True)
    async with client_of(engine, max_waiting=2) as client:
        requests = [asyncio.create_task(client.post("/chat", json=PROMPT)) for _ in range(10)]
        await until(lambda: sum(request.done() for request in requests) == 7)
        probes = await client.get("/healthz")
        engine.allow()
        replies = await asyncio.gather(*requests)
    assert sorted(reply.status_code for reply in replies) == [200] * 3 + [429] * 7
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json() == {"detail": "every place is taken by requests that are answered or wait: come again later"}
    assert refused.headers["retry-after"] == "2"
    assert probes.status_code == 200


@pytest.mark.parametrize(
    ("at_once", "may_wait", "said", "inside"),
    [(1, 32, None, 33), (32, 0, None, 32), (256, 32, None, 288), (32, 0, 8, 40), (1, 32, 0, 1)],
)
def test_places_are_those_that_the_engine_answers_at_once_and_those_that_may_wait(
    at_once: int, may_wait: int, said: int | None, inside: int
) -> None:
    engine = ScriptedEngine()
    engine.state = Ready(replace(engine.model, at_once=at_once, may_wait=may_wait))
    assert places(engine, Settings(max_waiting=said)) == inside


async def test_who_asks_a_model_that_is_not_loaded_is_told_that_and_not_that_places_are_taken() -> None:
    engine = ScriptedEngine(held=True)
    async with client_of(engine, max_waiting=0) as client:
        inside = asyncio.create_task(client.post("/chat", json=PROMPT))
        await until(lambda: engine.asked)
        full = await client.post("/chat", json=PROMPT)
        engine.state = Loading("reading the weights, 3 s")
        early = await client.post("/chat", json=PROMPT)
        engine.allow()
        await inside
    assert [full.status_code, early.status_code] == [429, 503]
    assert early.json() == {"detail": "the model is not loaded yet: reading the weights, 3 s"}


@pytest.mark.parametrize("tokens", [0, 1, 3])
async def test_when_the_client_goes_away_the_generation_ends_and_its_place_is_free(tokens: int) -> None:
    engine, door = ScriptedEngine("a b c d e f", held=True), Admission(places=lambda: 1)
    app = create_app(engine, Settings(), admission=door)
    engine.start()
    gone = asyncio.Event()
    body = [{"type": "http.request", "body": json.dumps(PROMPT).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        return None

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/chat",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    served = asyncio.create_task(app(scope, receive, send))
    engine.allow(tokens)
    await until(lambda: engine.asked and engine.given == tokens)
    gone.set()
    await asyncio.wait_for(served, 120)
    assert (engine.given, engine.abandoned, door.inside) == (tokens, 1, 0)


async def test_an_engine_that_finds_the_options_contradictory_makes_it_the_clients_fault() -> None:
    async with client_of(ScriptedEngine(error=InvalidParameters("num_beams must divide"))) as client:
        reply = await client.post("/chat", json=PROMPT)
    assert (reply.status_code, reply.json()) == (400, {"detail": "generate_kwargs: num_beams must divide"})


async def test_running_out_of_memory_fails_one_request_and_not_the_server() -> None:
    async with client_of(ScriptedEngine(error=OutOfMemory("ask for less"))) as client:
        reply, live = await client.post("/chat", json=PROMPT), await client.get("/healthz")
    assert (reply.status_code, reply.json(), live.status_code) == (503, {"detail": "ask for less"}, 200)


async def test_prometheus_is_told_what_happened() -> None:
    async with client_of(ScriptedEngine("a b c")) as client:
        await client.post("/chat", json=PROMPT)
        await client.post("/chat", json={})
        reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert metric(reply.text, "kaito_inference_requests_total", status="200") == 1
    assert metric(reply.text, "kaito_inference_requests_total", status="400") == 1
    assert metric(reply.text, "kaito_inference_prompt_tokens_total") == 4
    assert metric(reply.text, "kaito_inference_generated_tokens_total") == 3
    assert metric(reply.text, "kaito_inference_request_seconds_count") == 1
    assert metric(reply.text, "kaito_inference_requests_inside") == 0
    assert metric(reply.text, "python_asyncio_tasks") == len(asyncio.all_tasks())
    assert metric(reply.text, "kaito_inference_ready") == 1


async def test_for_json_the_metrics_have_kaitos_shape() -> None:
    async with client_of(ScriptedEngine()) as client:
        told = (await client.get("/metrics", headers={"Accept": "application/json"})).json()
    assert set(told) == {"gpu_info", "cpu_info"}
    if told["cpu_info"]:
        assert set(told["cpu_info"]) == {"load_percentage", "physical_cores", "total_cores", "memory"}
        assert all(amount.endswith(" GB") for amount in told["cpu_info"]["memory"].values())
    else:
        assert {"id", "name", "load", "temperature", "memory"} == set(told["gpu_info"][0])


async def test_a_request_id_is_echoed_and_one_is_made_where_there_is_none_or_no_harmless_one() -> None:
    async with client_of(ScriptedEngine()) as client:
        told = await client.post("/chat", json=PROMPT, headers={"X-Request-Id": "mine-1"})
        refused = await client.post("/v1/completions", json={}, headers={"X-Request-Id": "mine-1"})
        made = [(await client.get("/healthz", headers=sent)).headers for sent in ({}, {}, {"X-Request-Id": "a" * 129})]
    assert [told.headers["x-request-id"], refused.headers["x-request-id"]] == ["mine-1", "mine-1"]
    assert len({each["x-request-id"] for each in made}) == 3
    assert all(len(each["x-request-id"]) == 32 for each in made)


async def test_two_requests_of_the_same_id_are_two_requests() -> None:
    engine = ScriptedEngine(held=True)
    async with client_of(engine) as client:
        both = [client.post("/chat", json=PROMPT, headers={"X-Request-Id": "same"}) for _ in range(2)]
        answers = asyncio.gather(*both)
        await until(lambda: len(engine.asked) == 2)
        engine.allow()
        assert [reply.json() for reply in await answers] == [{"Result": "why is it so so it is ."}] * 2


async def test_a_browsers_page_may_ask_only_if_its_origin_is_allowed() -> None:
    page = {"Origin": "https://page.example"}
    preflight = {**page, "Access-Control-Request-Method": "POST"}
    async with client_of(ScriptedEngine()) as client:
        replies = [
            await client.post("/chat", json=PROMPT, headers=page),
            await client.options("/chat", headers=preflight),
        ]
    assert [name for reply in replies for name in reply.headers if name.startswith("access-control")] == []
    async with client_of(ScriptedEngine(), allowed_origin=("https://page.example",)) as client:
        allowed = await client.post("/chat", json=PROMPT, headers=page)
        asked = await client.options("/chat", headers=preflight)
        other = await client.post("/chat", json=PROMPT, headers={"Origin": "https://other.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://page.example")
    assert "access-control-allow-origin" not in other.headers


async def test_the_api_describes_itself() -> None:
    async with client_of(ScriptedEngine()) as client:
        described = (await client.get("/openapi.json")).json()
    kaito, openai = {"/", "/healthz", "/readyz", "/metrics", "/chat"}, {"/v1/chat/completions", "/v1/completions"}
    tokens = {"/tokenize", "/detokenize", "/version"}
    assert set(described["paths"]) == kaito | openai | tokens | {"/v1/models", "/v1/models/{name}"}
    body = described["paths"]["/chat"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatRequest"}
    schemas = described["components"]["schemas"]
    assert {"prompt", "messages", "return_full_text", "prefix", "generate_kwargs"} <= set(
        schemas["ChatRequest"]["properties"]
    )
    referred = set(re.findall(r"#/([^\"]+)", json.dumps(described)))
    assert referred == {f"components/schemas/{name}" for name in schemas.keys() & {r.split("/")[-1] for r in referred}}
