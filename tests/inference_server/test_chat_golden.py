"""/chat answers what transformers' own text-generation pipeline answers, which is what KAITO 0.3 puts behind it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import pipeline

from inference_server.app import create_app
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings

PROMPT = "w3 w1 w4 w1 w5"
GREEDY = {"do_sample": False}
CASES: dict[str, dict[str, Any]] = {
    "a number of new tokens": {"generate_kwargs": {"max_new_tokens": 9}},
    "a whole length": {"generate_kwargs": {"max_length": 17}},
    "new text only": {"return_full_text": False, "generate_kwargs": {"max_new_tokens": 9}},
    "a prefix": {"prefix": "w9 w8 ", "generate_kwargs": {"max_new_tokens": 9}},
    "a prefix, new text only": {"prefix": "w9 ", "return_full_text": False, "generate_kwargs": {"max_new_tokens": 9}},
    "a penalty on what was said": {"generate_kwargs": {"max_new_tokens": 9, "repetition_penalty": 1.5}},
    "nothing twice": {"generate_kwargs": {"max_new_tokens": 20, "no_repeat_ngram_size": 2}},
    "beams": {"generate_kwargs": {"max_new_tokens": 9, "num_beams": 4, "early_stopping": True}},
    "two sequences": {"generate_kwargs": {"max_new_tokens": 5, "num_beams": 4, "num_return_sequences": 2}},
    "another end": {"generate_kwargs": {"max_new_tokens": 40, "eos_token_id": list(range(20, 40))}},
    "an end that must wait": {
        "generate_kwargs": {"max_new_tokens": 20, "min_new_tokens": 10, "eos_token_id": list(range(20, 40))}
    },
}


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> Any:
    return pipeline("text-generation", model=str(tiny_model), device="cpu")


def chat(engine: TransformersEngine, **body: Any) -> httpx.Response:
    """One POST /chat."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine, Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post("/chat", json=body)

    return asyncio.run(ask())


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_that_of_the_pipeline(generator: Any, tiny_engine: TransformersEngine, case: str) -> None:
    fields = CASES[case]
    options = {**GREEDY, "repetition_penalty": 1.0, **fields["generate_kwargs"]}
    others = {key: value for key, value in fields.items() if key != "generate_kwargs"}
    wanted = "".join(one["generated_text"] for one in generator(PROMPT, **others, **options))
    reply = chat(tiny_engine, prompt=PROMPT, **others, generate_kwargs={**GREEDY, **fields["generate_kwargs"]})
    assert reply.json() == {"Result": wanted}


def test_a_conversation_is_answered_with_the_assistants_text(generator: Any, tiny_engine: TransformersEngine) -> None:
    messages = [
        {"role": "user", "content": "w7 w8"},
        {"role": "assistant", "content": "w9"},
        {"role": "user", "content": "w2"},
    ]
    wanted = generator(messages, max_new_tokens=8, **GREEDY)[0]["generated_text"][-1]["content"]
    reply = chat(tiny_engine, messages=messages, generate_kwargs={"max_new_tokens": 8, **GREEDY})
    assert reply.json()["Result"].strip() == wanted.strip()


def test_without_any_options_prompt_and_answer_have_at_most_as_many_tokens_as_the_context(
    tiny_engine: TransformersEngine,
) -> None:
    words = chat(tiny_engine, prompt=PROMPT).json()["Result"].split()
    assert len(PROMPT.split()) < len(words) <= 64
