"""The OpenAI API with the official clients, sync and async, over each engine, and its fields one by one."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference_server.app import create_app
from inference_server.engines.engine import InvalidParameters, OutOfMemory
from inference_server.limits import Admission
from inference_server.settings import Settings
from inference_server.text import Writer
from tests.inference_server.test_app import client_of, until
from tests.support import vllm
from tests.support.openai_clients import KINDS, client_of_kind
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import ServerProcess, serving
from tests.support.tiny_model import write_tiny_model
from tests.support.vllm import VLLM

pytestmark = pytest.mark.server
TURN: list[Any] = [{"role": "user", "content": "w1 w2 w3"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module", params=["transformers", "native", VLLM])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tiny_model(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that the engine can run."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), hidden=vllm.WIDTH if engine == vllm.ENGINE else 32)


@pytest.fixture(scope="module")
def server(engine: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    flags = vllm.FLAGS if engine == vllm.ENGINE else (f"--engine={engine}",)
    with serving(tiny_model, *flags, "--torch_dtype=float32", "--served_model_name=tiny", log=log) as process:
        process.wait_until("/readyz")
        yield replace(process, engine=engine)


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[openai.OpenAI]:
    with client_of_kind(request.param, f"{server.url}/v1") as client:
        yield client


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> list[int]:
    """The tokens after the conversation, by transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = tokenizer.apply_chat_template(TURN, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**ids, do_sample=False, max_new_tokens=8)[0, ids["input_ids"].shape[1] :]
    tokens: list[int] = made.tolist()
    return tokens


@pytest.fixture(scope="module")
def words(tiny_model: Path, reference: list[int]) -> str:
    text: str = AutoTokenizer.from_pretrained(tiny_model).decode(reference)
    return text


def test_a_conversation_gets_the_models_reply(client: openai.OpenAI, words: str) -> None:
    reply = client.chat.completions.create(model="tiny", messages=TURN, **GREEDY)
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", words, "length")
    assert reply.usage is not None
    assert (reply.usage.completion_tokens, reply.usage.total_tokens) == (8, reply.usage.prompt_tokens + 8)
    assert (reply.object, reply.model) == ("chat.completion", "tiny")


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI, words: str) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="tiny", messages=TURN, **GREEDY, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == words
    assert sum(bool(piece) for piece in pieces) == 8
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_prompt_goes_on_as_text_as_ids_and_several_at_once(client: openai.OpenAI) -> None:
    def texts(prompt: Any, **more: Any) -> list[str]:
        made = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=4, **more)
        return [choice.text for choice in made.choices]

    [one], [other] = texts("w1 w2"), texts("w3")
    tokenize = f"{client.base_url}".replace("/v1/", "/tokenize")
    ids = httpx.post(tokenize, json={"prompt": "w1 w2"}, timeout=60).json()["tokens"]
    assert texts(["w1 w2", "w3"]) == [one, other]
    assert texts(ids) == [one]
    assert texts([ids, ids]) == [one, one]
    assert texts("w1 w2", echo=True) == ["w1 w2" + one]


def test_a_completion_can_be_streamed(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt": "w1 w2", "temperature": 0, "max_tokens": 4}
    whole = client.completions.create(**body).choices[0].text
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**body, stream=True)]
    assert "".join(pieces) == whole


def test_the_answer_ends_before_a_stop_string_also_within_a_chunk(client: openai.OpenAI, words: str) -> None:
    stop = words[4:7]  # reaches over the border of two tokens, each of which has two or three characters
    reply = client.chat.completions.create(model="tiny", messages=TURN, stop=[stop], **GREEDY)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content == words[: words.index(stop)]
    stream = client.chat.completions.create(model="tiny", messages=TURN, stop=stop, stream=True, **GREEDY)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == words[: words.index(stop)]


def test_a_seed_repeats_and_each_choice_differs(client: openai.OpenAI) -> None:
    def sampled(seed: int) -> list[str | None]:
        made = client.chat.completions.create(model="tiny", messages=TURN, seed=seed, n=3, max_completion_tokens=8)
        assert [choice.index for choice in made.choices] == [0, 1, 2]
        return [choice.message.content for choice in made.choices]

    assert sampled(7) == sampled(7) != sampled(8)
    assert len(set(sampled(7))) == 3


def test_logprobs_are_those_of_the_model(client: openai.OpenAI, tiny_model: Path, reference: list[int]) -> None:
    made = client.chat.completions.create(model="tiny", messages=TURN, logprobs=True, top_logprobs=3, **GREEDY)
    told = made.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    prompt = tokenizer.apply_chat_template(TURN, add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        rows = model(torch.tensor([prompt + reference])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert [each.logprob for each in told.content] == pytest.approx(
        [float(rows[place, token]) for place, token in enumerate(reference)], abs=1e-3
    )
    likeliest = [float(value) for value in rows[0].topk(3).values]
    assert [each.logprob for each in told.content[0].top_logprobs] == pytest.approx(likeliest, abs=1e-3)
    assert bytes(told.content[0].bytes or []).decode() == told.content[0].token


def test_the_logprobs_of_a_completion_have_their_places_in_the_text(client: openai.OpenAI) -> None:
    choice = client.completions.create(model="tiny", prompt="w1 w2", temperature=0, max_tokens=4, logprobs=2).choices[0]
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    assert "".join(told.tokens) == choice.text
    assert [choice.text[place:].startswith(t) for place, t in zip(told.text_offset, told.tokens, strict=True)] == [
        True
    ] * 4
    assert [len(each) for each in told.top_logprobs or []] == [2] * 4


def test_the_logprobs_of_an_echoed_prompt_are_those_of_the_model(client: openai.OpenAI, tiny_model: Path) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt": "w1 w2 w3", "temperature": 0, "echo": True, "logprobs": 2}
    told, alone = (client.completions.create(**body, max_tokens=most).choices[0].logprobs for most in (2, 0))
    streamed = [chunk.choices[0] for chunk in client.completions.create(**body, max_tokens=2, stream=True)]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = tokenizer("w1 w2 w3")["input_ids"]
    with torch.no_grad():
        rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = [None, *(pytest.approx(float(rows[place, token]), abs=1e-3) for place, token in enumerate(ids[1:]))]
    assert told is not None
    assert alone is not None
    assert (told.token_logprobs or [])[: len(ids)] == wanted == alone.token_logprobs
    assert (told.tokens or [])[: len(ids)] == alone.tokens == ["w1", " w2", " w3"]
    assert (alone.text_offset, len(told.tokens or [])) == ([0, 2, 5], len(ids) + 2)
    assert [len(each or {}) for each in told.top_logprobs or []] == [0, 2, 2, 2, 2]
    assert "".join(choice.text for choice in streamed).startswith("w1 w2 w3")
    pieces = [choice.logprobs.token_logprobs for choice in streamed if choice.logprobs]
    assert [number for piece in pieces for number in piece or []] == told.token_logprobs


def test_vllms_field_tells_of_each_token_of_a_prompt(client: openai.OpenAI, tiny_model: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)

    def wanted(ids: list[int], likeliest: int) -> list[dict[str, Any] | None]:
        with torch.no_grad():
            rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        told: list[dict[str, Any] | None] = [None]
        for row, token in zip(rows, ids[1:], strict=False):
            ranks = row.argsort(descending=True).tolist()
            told.append(
                {
                    str(each): {
                        "logprob": pytest.approx(float(row[each]), abs=1e-3),
                        "rank": ranks.index(each) + 1,
                        "decoded_token": tokenizer.decode([each], skip_special_tokens=True),
                    }
                    for each in dict.fromkeys([token, *ranks[:likeliest]])
                }
            )
        return told

    extra = {"prompt_logprobs": 2}
    ids = tokenizer("w1 w2 w3")["input_ids"]
    body: dict[str, Any] = {"model": "tiny", "prompt": ["w1 w2 w3", "w7"], "temperature": 0, "max_tokens": 1, "n": 1}
    first, second = client.completions.create(**body, extra_body=extra).choices
    assert first.model_dump()["prompt_logprobs"] == wanted(ids, 2)
    assert second.model_dump()["prompt_logprobs"] == [None]
    both = client.completions.create(**body, extra_body={"prompt_logprobs": 0, "echo": True, "logprobs": 1}).choices[0]
    assert both.model_dump()["prompt_logprobs"] == wanted(ids, 0)
    assert [len(each or {}) for each in (both.logprobs and both.logprobs.top_logprobs) or []] == [0, 1, 1, 1]
    turn = tokenizer.apply_chat_template(TURN, add_generation_prompt=True)["input_ids"]
    reply = client.chat.completions.create(model="tiny", messages=TURN, **GREEDY, extra_body={"prompt_logprobs": 0})
    told = [
        each and [(token, one["logprob"]) for token, one in each.items()]
        for each in reply.model_dump()["prompt_logprobs"]
    ]
    own = [each and [(token, one["logprob"]) for token, one in each.items()] for each in wanted(turn, 0)]
    assert told == own  # not the ranks: after the first of these tokens several are exactly as likely
    with pytest.raises(openai.BadRequestError, match="prompt_logprobs come with a whole answer") as streamed:
        client.chat.completions.create(model="tiny", messages=TURN, stream=True, extra_body=extra)
    assert streamed.value.param == "prompt_logprobs"


def tokens_of(client: openai.OpenAI, **body: Any) -> list[int]:
    """The ids of an answer, told by its text: each word of this model is one token."""
    reply = client.chat.completions.create(model="tiny", messages=TURN, max_tokens=8, **body)
    url = f"{client.base_url}".replace("/v1/", "/tokenize")
    ids: list[int] = httpx.post(url, json={"prompt": reply.choices[0].message.content}, timeout=60).json()["tokens"]
    return ids


def test_a_bias_of_100_decides_and_of_minus_100_forbids(client: openai.OpenAI, reference: list[int]) -> None:
    assert tokens_of(client, temperature=0, logit_bias={"40": 100}) == [40] * 8
    forbidden = {str(token): -100 for token in reference}
    assert not set(tokens_of(client, temperature=0, logit_bias=forbidden)) & set(reference)


def test_penalties_change_what_is_repeated(client: openai.OpenAI) -> None:
    again = {"40": 1.0}  # makes it the likeliest, but for what a penalty takes from it
    assert tokens_of(client, temperature=0, logit_bias=again).count(40) == 8
    assert tokens_of(client, temperature=0, logit_bias=again, frequency_penalty=2).count(40) < 8
    assert tokens_of(client, temperature=0, logit_bias=again, presence_penalty=2).count(40) < 8


def test_top_k_1_is_greedy_at_any_temperature(client: openai.OpenAI, words: str) -> None:
    made = client.chat.completions.create(
        model="tiny", messages=TURN, temperature=2, max_tokens=8, extra_body={"top_k": 1}
    )
    assert made.choices[0].message.content == words


@pytest.mark.parametrize("cut", [{"top_p": 0.0}, {"min_p": 1.0}])
def test_a_cut_that_leaves_one_token_is_greedy_at_any_temperature(
    client: openai.OpenAI, words: str, cut: dict[str, float]
) -> None:
    made = client.chat.completions.create(model="tiny", messages=TURN, temperature=2, max_tokens=8, extra_body=cut)
    assert made.choices[0].message.content == words


def test_a_repetition_penalty_keeps_from_saying_it_again(client: openai.OpenAI) -> None:
    def different(penalty: float) -> int:
        body: dict[str, Any] = {"model": "tiny", "messages": TURN, **GREEDY, "logprobs": True}
        made = client.chat.completions.create(**body, extra_body={"repetition_penalty": penalty})
        told = made.choices[0].logprobs
        return len({each.token for each in (told and told.content) or ()})

    assert different(1.0) < different(100.0) == 8


def test_each_choice_of_a_stream_is_the_one_of_the_whole_reply(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": TURN, "seed": 7, "n": 3, "max_tokens": 8}
    whole = client.chat.completions.create(**body)
    pieces = ["", "", ""]
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == [choice.message.content for choice in whole.choices]


def test_the_end_of_the_text_can_be_forced_put_off_and_ignored(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": TURN, **GREEDY, "logit_bias": {"2": 100}}

    def length(**extra: Any) -> tuple[int, str]:
        made = client.chat.completions.create(**body, extra_body=extra)
        assert made.usage is not None
        return made.usage.completion_tokens, made.choices[0].finish_reason

    assert length() == (1, "stop")
    assert length(min_tokens=3) == (4, "stop")
    assert length(ignore_eos=True) == (8, "length")


def test_models_tokens_and_version_are_told(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, client.models.retrieve("tiny").id) == ("tiny", "tiny")
    root = f"{client.base_url}".removesuffix("v1/")
    ids = httpx.post(f"{root}tokenize", json={"messages": TURN}, timeout=60).json()
    assert ids["count"] == len(ids["tokens"]) == 5
    assert httpx.post(f"{root}detokenize", json={"tokens": [5, 36]}, timeout=60).json() == {"prompt": "w0 w1"}
    assert set(httpx.get(f"{root}version", timeout=60).json()) == {"version"}


def test_errors_are_those_of_the_clients_library(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=TURN)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="tiny", prompt="w1 " * 64)
    assert long.value.code == "context_length_exceeded"


UNSUPPORTED: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f"}}],  # the scripted model has no place for them
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "modalities": ["audio"],
    "top_logprobs": 3,
    "stream_options": {"include_usage": True},
    "reasoning_effort": "high",
    "logit_bias": {"x": 1},
    "n": 17,
}


@pytest.mark.badinput
@pytest.mark.parametrize("field", UNSUPPORTED)
async def test_what_would_change_the_meaning_is_refused_and_named(field: str) -> None:
    async with client_of(ScriptedEngine()) as client:
        body = {"messages": [{"role": "user", "content": "a"}], field: UNSUPPORTED[field]}
        reply = await client.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.badinput
@pytest.mark.parametrize("field", ["suffix", "best_of"])
async def test_what_a_completion_cannot_do_is_refused(field: str) -> None:
    async with client_of(ScriptedEngine()) as client:
        reply = await client.post("/v1/completions", json={"prompt": "a", field: {"suffix": "b", "best_of": 2}[field]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


async def test_what_changes_nothing_is_taken() -> None:
    async with client_of(ScriptedEngine()) as client:
        body = {"messages": [{"role": "user", "content": "a"}], "user": "me", "metadata": {"a": "b"}, "store": False}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [(InvalidParameters("no"), 400, "invalid_request_error"), (OutOfMemory("ask for less"), 503, "server_error")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_refusal_has_its_status_also_for_a_stream(
    error: Any, status: int, kind: str, stream: bool
) -> None:
    async with client_of(ScriptedEngine(error=error)) as client:
        reply = await client.post("/v1/completions", json={"prompt": "a", "stream": stream})
        text = (await client.get("/metrics")).text
    assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
    assert "kaito_inference_requests_inside 0.0" in text


async def test_a_stream_ends_with_done() -> None:
    async with client_of(ScriptedEngine()) as client:
        reply = await client.post("/v1/completions", json={"prompt": "why is it", "stream": True})
    events = reply.text.split("\n\n")
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events[-2:] == ["data: [DONE]", ""]
    assert "".join(json.loads(e[6:])["choices"][0]["text"] for e in events[:-2]) == " so it is ."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 3])
async def test_a_client_that_goes_away_ends_the_generation_of_every_choice(tokens: int, stream: bool) -> None:
    engine, door = ScriptedEngine("a b c d e f", held=True), Admission(places=lambda: 1)
    app = create_app(engine, Settings(), admission=door)
    engine.start()
    gone = asyncio.Event()
    sent = {"prompt": "why", "stream": stream, "n": 2, "max_tokens": 6}
    body = [{"type": "http.request", "body": json.dumps(sent).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        return None

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
             "headers": [(b"content-type", b"application/json")]}  # fmt: skip
    served = asyncio.create_task(app(scope, receive, send))
    engine.allow(tokens)
    await until(lambda: len(engine.asked) == 2 and engine.given == tokens)
    gone.set()
    await asyncio.wait_for(served, 120)
    assert (engine.given, engine.abandoned, door.inside) == (tokens, 2, 0)


def test_pieces_of_text_are_the_text(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    for text in ("Grüße, 世界! 👩‍👩‍👧 ok", " a  b\n\n\tc", "naïve façade — “quoted”"):
        ids = tokenizer(text)["input_ids"]
        writer = Writer(tokenizer.decode, prompt=tokenizer("Before")["input_ids"])
        pieces = [writer.push([token]) for token in ids]
        assert "".join([*pieces, writer.finish()]) == text
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("words", "stops", "shown", "stopped"),
    [
        (["ab", "cd", "ef"], ["de"], "abc", True),
        (["ab", "cd"], ["dx"], "abcd", False),
        (["aa", "ab", "b"], ["aab"], "a", True),
        (["abc"], ["c", "b"], "a", True),
        (["x"], [], "x", False),
    ],
)
def test_nothing_of_a_stop_string_is_shown(words: list[str], stops: list[str], shown: str, stopped: bool) -> None:
    writer = Writer(lambda tokens: "".join(words[token] for token in tokens), prompt=(), stops=stops)
    pieces = [writer.push([token]) for token in range(len(words))]
    assert ("".join([*pieces, writer.finish()]), writer.stopped) == (shown, stopped)
