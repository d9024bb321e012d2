"""Tools over the OpenAI API: calls whole and streamed, the official client, results sent back, what is refused."""

import json
from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest

from inference_server.app import create_app
from inference_server.settings import Settings
from inference_server.tools.format import ToolFormat
from tests.inference_server.test_app import client_of
from tests.support.openai_clients import KINDS, client_of_kind
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import listening

FORMAT = ToolFormat("json", "<tool_call> ", " </tool_call>", between=" ")
CALL = '<tool_call> {"name": "weather", "arguments": {"city": "Oslo"}} </tool_call>'
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOOLS: list[Any] = [WEATHER]
TURN: list[Any] = [{"role": "user", "content": "rain ?"}]


def engine_of(answer: str) -> ScriptedEngine:
    return ScriptedEngine(answer, tools=FORMAT)


@pytest.fixture
def url() -> Iterator[str]:
    """A model that says something and calls twice."""
    with listening(create_app(engine_of(f"Let me see. {CALL} {CALL}"), Settings())) as url:
        yield f"{url}/v1"


def names_and_arguments(calls: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_client_gets_the_calls_and_sends_their_results_back(url: str, kind: str) -> None:
    with client_of_kind(kind, url) as client:
        reply = client.chat.completions.create(model="scripted", messages=TURN, tools=TOOLS)
        message = reply.choices[0].message
        assert (message.content, reply.choices[0].finish_reason) == (" Let me see.", "tool_calls")
        assert names_and_arguments(message.tool_calls) == [("weather", {"city": "Oslo"})] * 2
        results: list[Any] = [
            {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"} for call in message.tool_calls or ()
        ]
        again = client.chat.completions.create(
            model="scripted",
            messages=[*TURN, cast(Any, message), *results],
            tools=TOOLS,
        )
        assert again.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_client_gets_a_stream_of_them(url: str, kind: str) -> None:
    with client_of_kind(kind, url) as client:
        stream: Any = client.chat.completions.create(model="scripted", messages=TURN, tools=TOOLS, stream=True)
        chunks = [chunk.choices[0] for chunk in stream]
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == " Let me see."
    assert ([call.index for call in calls], len({call.id for call in calls})) == ([0, 1], 2)
    assert names_and_arguments(calls) == [("weather", {"city": "Oslo"})] * 2
    assert chunks[-1].finish_reason == "tool_calls"


async def asked(engine: ScriptedEngine, **body: Any) -> dict[str, Any]:
    async with client_of(engine) as client:
        reply = await client.post("/v1/chat/completions", json={"messages": TURN, "tools": [WEATHER], **body})
    content: dict[str, Any] = reply.json()
    return content


async def test_one_call_ends_the_answer_where_only_one_may_be() -> None:
    engine = ScriptedEngine(f"{CALL} {CALL} and so on", tools=FORMAT, held=True)
    engine.allow(len(CALL.split()))  # with another word to come it would wait for ever
    choice = (await asked(engine, parallel_tool_calls=False))["choices"][0]
    assert (choice["message"]["content"], len(choice["message"]["tool_calls"])) == (None, 1)
    assert (choice["finish_reason"], engine.abandoned) == ("tool_calls", 1)


async def test_with_the_choice_none_the_model_knows_of_no_tool_and_calls_none() -> None:
    engine = engine_of(CALL)
    choice = (await asked(engine, tool_choice="none"))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (f" {CALL}", "stop")
    assert "tool" not in engine.tokenizer.decode(engine.asked[0].prompt)


async def test_the_model_is_shown_the_tools_and_earlier_calls() -> None:
    engine = engine_of("So be it")
    called = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [*TURN, {"role": "assistant", "content": None, "tool_calls": [called], "refusal": None},
             {"role": "tool", "tool_call_id": "a1", "content": "cold"}]  # fmt: skip
    choice = (await asked(engine, messages=turns))["choices"][0]
    shown = engine.tokenizer.decode(engine.asked[0].prompt)
    assert shown.startswith("tool weather user: rain ? ")
    assert "tool: cold" in shown
    assert "'arguments': {'city': 'Oslo'}" in shown
    assert (choice["message"]["content"], choice["finish_reason"]) == (" So be it", "stop")
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("choice", "forced"),
    [("auto", False), ("required", True), ({"type": "function", "function": {"name": "weather"}}, True)],
)
async def test_only_a_choice_that_leaves_none_is_forced_by_a_grammar(choice: Any, forced: bool) -> None:
    engine = engine_of(CALL)
    assert (await asked(engine, tool_choice=choice))["choices"][0]["finish_reason"] == "tool_calls"
    assert ("grammar" in engine.asked[0].options) is forced


async def test_strict_arguments_are_kept_also_where_the_model_may_choose() -> None:
    engine = engine_of("Let it be")
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    await asked(engine, tools=[strict])
    assert engine.asked[0].options["grammar"].startswith("start: ")


async def test_an_answer_that_is_cut_within_a_call_says_so_and_shows_what_there_is() -> None:
    choice = (await asked(engine_of(CALL), max_tokens=2))["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", '<tool_call> {"name":')


GPT_OSS = ToolFormat("channels", "", "")
THOUGHT = "<|channel|>analysis<|message|>I need it.<|end|><|start|>assistant"
IN_CHANNELS = f'{THOUGHT}<|channel|>commentary to=functions.weather json<|message|>{{"city": "Oslo"}}<|call|> and more'


async def test_what_a_model_thinks_in_a_channel_is_its_reasoning_and_a_call_ends_the_answer() -> None:
    engine = ScriptedEngine(IN_CHANNELS, tools=GPT_OSS)
    choice = (await asked(engine))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["content"], choice["message"]["reasoning"]) == (None, "I need it.")
    [call] = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Oslo"})
    again = [*TURN, choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "cold"}]
    other = ScriptedEngine(IN_CHANNELS, tools=GPT_OSS)
    assert "choices" in await asked(other, messages=again), "the message can be sent back as it is"


@pytest.mark.parametrize("without", [{"tools": None}, {"tool_choice": "none"}])
async def test_without_tools_channels_are_read_all_the_same(without: dict[str, Any]) -> None:
    answer = f"{THOUGHT}<|channel|>final<|message|>It rains .<|return|>"
    choice = (await asked(ScriptedEngine(answer, tools=GPT_OSS), **without))["choices"][0]
    assert (choice["message"]["content"], choice["message"]["reasoning"]) == ("It rains .", "I need it.")
    assert choice["finish_reason"] == "stop"
    async with client_of(ScriptedEngine(answer, tools=GPT_OSS)) as client:
        assert (await client.post("/chat", json={"messages": TURN})).json() == {"Result": "It rains ."}


async def test_reasoning_is_streamed_before_the_answer() -> None:
    answer = f"{THOUGHT}<|channel|>final<|message|>It rains .<|return|>"
    with listening(create_app(ScriptedEngine(answer, tools=GPT_OSS), Settings())) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream: Any = await client.chat.completions.create(model="scripted", messages=TURN, stream=True)
            deltas = [chunk.choices[0].delta async for chunk in stream]
    thoughts = [delta.reasoning for delta in deltas if getattr(delta, "reasoning", None)]
    assert ("".join(thoughts), "".join(delta.content or "" for delta in deltas)) == ("I need it.", "It rains .")


async def test_a_model_whose_template_knows_no_tools_is_told_of_them_in_words_and_calls_as_in_python() -> None:
    engine = ScriptedEngine(
        '[weather(city="Oslo")]', tools=ToolFormat("python", "", "", listed=True, by_hand="everything")
    )
    message = (await asked(engine))["choices"][0]["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]
    shown = engine.tokenizer.decode(engine.asked[0].prompt)
    assert shown.startswith("system: You can call functions.")
    assert '"name": "weather"' in shown
    assert shown.endswith("user: rain ? assistant:")
    turns = [*TURN, message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "cold"}]
    other = ScriptedEngine(tools=engine.tokenizer.tools)
    await asked(other, messages=turns)
    assert other.tokenizer.decode(other.asked[0].prompt).endswith(
        'user: rain ? assistant: [weather(city="Oslo")] user: ```tool_output cold ``` assistant:'
    )


async def test_what_the_template_asks_for_reaches_it() -> None:
    engine = engine_of("So be it")
    await asked(engine, chat_template_kwargs={"mood": "calm"})
    assert "mood calm" in engine.tokenizer.decode(engine.asked[0].prompt)
    async with client_of(engine) as client:
        body = {"messages": TURN, "chat_template_kwargs": {"mood": "calm"}}
        ids = (await client.post("/tokenize", json=body)).json()["tokens"]
    assert engine.tokenizer.decode(ids).startswith("mood calm")


FUNCTION = {"name": "weather", "arguments": "{}"}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "two of a name": ({"tools": [WEATHER, WEATHER]}, "tools", "same name"),
    "a name with a space": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "pattern"),
    "another kind of tool": ({"tools": [{"type": "web_search"}]}, "tools", "function"),
    "too many": ({"tools": [WEATHER] * 129}, "tools", "128"),
    "a choice without tools": ({"tools": None, "tool_choice": "required"}, "tool_choice", "needs tools"),
    "a choice of none of them": (
        {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice",
        "not in tools",
    ),
    "a choice nobody knows": ({"tool_choice": "maybe"}, "tool_choice", "required"),
    "a variable that the template does not know": (
        {"chat_template_kwargs": {"mood": 1, "enable_thinking": False}},
        "chat_template_kwargs",
        "'enable_thinking'",
    ),
    "an effort that the template does not know": ({"reasoning_effort": "low"}, "reasoning_effort", "know no"),
    "an effort that nobody knows": ({"reasoning_effort": "heroic"}, "reasoning_effort", "'medium'"),
    "a format too": ({"response_format": {"type": "json_object"}}, "response_format", "none"),
    "a message without content": ({"messages": [{"role": "user"}]}, "messages", "needs content"),
    "a result of nothing": ({"messages": [*TURN, {"role": "tool", "content": "1"}]}, "messages", "tool_call_id"),
    "arguments that are no JSON": (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {**FUNCTION, "arguments": "{"}}]}]},
        "messages",
        "not a JSON object",
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_is_refused_and_named(case: str) -> None:
    body, param, reason = REFUSED[case]
    error = (await asked(engine_of(CALL), **body))["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert reason in error["message"]


@pytest.mark.badinput
async def test_a_model_whose_template_has_no_tools_refuses_them_and_says_why() -> None:
    error = (await asked(ScriptedEngine()))["error"]
    assert (error["param"], error["message"]) == ("tools", "words have no tools")
