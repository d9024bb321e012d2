"""Whatever a client of the OpenAI API sends: a 4xx in its envelope, never a 5xx, and the next request is answered.

One test per parameter, each with every value, for the values are many and each request takes a millisecond.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from inference_server.app import create_app
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.openai_schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from inference_server.settings import Settings
from tests.inference_server.test_bad_input import BODIES, JSON, VALUES
from tests.support.tiny_model import CONTEXT

pytestmark = pytest.mark.badinput

SHORT = {"max_tokens": 1, "temperature": 0}
VALID: dict[str, tuple[Any, dict[str, Any]]] = {
    "/v1/chat/completions": (ChatCompletionRequest, {"messages": [{"role": "user", "content": "w1"}], **SHORT}),
    "/v1/completions": (CompletionRequest, {"prompt": "w1 w2", **SHORT}),
    "/tokenize": (TokenizeRequest, {"prompt": "w1"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [1]}),
}
PARAMETERS = [(path, name) for path, (schema, _) in VALID.items() for name in schema.model_fields]
NESTED: dict[str, Callable[[Any], Any]] = {
    "messages": lambda value: [{"role": "user", "content": value}],
    "stream_options": lambda value: {"include_usage": value},
    "logit_bias": lambda value: {"5": value},
    "response_format": lambda value: {"type": value},
    "stop": lambda value: [value],
    "prompt": lambda value: [value],
    "tokens": lambda value: [value],
}


@pytest.fixture
async def client(tiny_engine: TransformersEngine) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(tiny_engine, Settings(max_body_bytes=1 << 20, body_seconds=0.2))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def is_an_error(reply: httpx.Response) -> bool:
    content = json.loads(reply.content)
    return set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("path", "parameter"), PARAMETERS)
async def test_no_value_of_any_parameter_is_more_than_a_400(
    client: httpx.AsyncClient, path: str, parameter: str, count_cases: Callable[[str, int], None]
) -> None:
    schema, valid = VALID[path]
    for name, value in VALUES.items():
        for given in (value, *([NESTED[parameter](value)] if parameter in NESTED else [])):
            content = json.dumps({**valid, parameter: given})
            reply = await client.post(path, content=content, headers=JSON)
            if reply.status_code != 200:
                assert reply.status_code in ({400, 404} if parameter == "model" else {400}), (name, reply.text)
                assert is_an_error(reply), name
            elif schema.model_fields[parameter].annotation is not Any:  # those change nothing, whatever they hold
                assert name not in {"NaN", "infinity", "-infinity", "a lone surrogate"}, given
    count_cases("bad input of the OpenAI API", len(VALUES) * (2 if parameter in NESTED else 1))
    assert (await client.post(path, json=valid)).status_code == 200


@pytest.mark.parametrize("case", [name for name, (_, _, status) in BODIES.items() if status in {413, 415, 422}])
@pytest.mark.parametrize("path", VALID)
async def test_a_body_that_is_wrong_is_refused_in_the_envelope(client: httpx.AsyncClient, path: str, case: str) -> None:
    content, headers, status = BODIES[case]
    reply = await client.post(path, content=content, headers=headers)
    assert reply.status_code == (400 if status == 422 else status), reply.text
    assert is_an_error(reply)


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
        assert is_an_error(reply)
