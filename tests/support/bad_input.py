"""Values × parameters × endpoints, and bodies that are wrong as a whole: what a client may send, and what it then gets.

What is legitimate is written down here by hand, from the API's references (OpenAI's, vLLM's, and transformers' for
``generate_kwargs``), so that it is no second reading of the server's schemas.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

VALUES: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "-infinity": -math.inf,
    "1e308": 1e308,
    "1e-308": 1e-308,
    "-0.0": -0.0,
    "0.5": 0.5,
    "-1": -1,
    "0": 0,
    "1": 1,
    "10**30": 10**30,
    "true": True,
    "'7'": "7",
    "null": None,
    "[]": [],
    "{}": {},
    "10**6 characters": "x" * 10**6,
    "a lone surrogate": "\ud800",
    "NUL": "\0",
}
JSON = {"Content-Type": "application/json"}
Legitimate = Callable[[Any], bool]


def null(value: Any) -> bool:
    """As good as absent."""
    return value is None


def flag(value: Any) -> bool:
    return isinstance(value, bool) or value is None


def whole(least: float, most: float = math.inf) -> Legitimate:
    """A number without a fraction; true is none."""
    return lambda value: value is None or (type(value) is int and least <= value <= most)


def number(least: float, most: float = sys.float_info.max, *, above: bool = False) -> Legitimate:
    """A number of JSON, which NaN and infinity are not; with ``above`` the least is none of them."""
    return lambda value: (
        value is None or (type(value) in (int, float) and least <= value <= most and not (above and value == least))
    )


def text(most: float = math.inf) -> Legitimate:
    """UTF-8 has no lone surrogates."""
    return lambda value: value is None or (isinstance(value, str) and value != "\ud800" and len(value) <= most)


def empty(kind: type) -> Legitimate:
    return lambda value: value is None or (type(value) is kind and not value)


def needed(by: Legitimate) -> Legitimate:
    """Null is no value for it."""
    return lambda value: value is not None and by(value)


def unread(value: Any) -> bool:
    """Anything that can be written down."""
    return bool(value != "\ud800")


CHAT: dict[str, Legitimate] = {
    "prompt": needed(text()),
    "messages": empty(list),
    "return_full_text": flag,
    "clean_up_tokenization_spaces": flag,
    "prefix": text(),
    "handle_long_generation": null,
    "generate_kwargs": empty(dict),
}
GENERATE_KWARGS: dict[str, Legitimate] = {
    "max_length": whole(1),
    "max_new_tokens": whole(1),
    "min_length": whole(0, 4),
    "min_new_tokens": whole(0, 2),
    "do_sample": flag,
    "early_stopping": flag,
    "num_beams": whole(1, 16),
    "num_return_sequences": whole(1, 16),
    "temperature": number(0, 100),
    "top_k": whole(0),
    "top_p": number(0, 1),
    "min_p": number(0, 1),
    "typical_p": number(0, 1, above=True),
    "epsilon_cutoff": lambda value: number(0, 1)(value) and value != 1,
    "eta_cutoff": lambda value: number(0, 1)(value) and value != 1,
    "repetition_penalty": number(0.01, 100),
    "length_penalty": number(-10, 10),
    "no_repeat_ngram_size": whole(0),
    "renormalize_logits": flag,
    "remove_invalid_values": flag,
    "stop_strings": null,
    "max_time": number(0, above=True),
    "pad_token_id": whole(0, 64),
    "eos_token_id": whole(0, 64),
}
NEUTRAL: dict[str, Any] = {
    "early_stopping": False, "num_beams": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "length_penalty": 1,
    "no_repeat_ngram_size": 0, "renormalize_logits": False, "remove_invalid_values": False, "max_time": None,
}  # fmt: skip
"""What only ``generate`` of transformers can do, and the value with which the other engines can do it too."""
NEUTRAL_TO: dict[str, dict[str, Any]] = {"native": NEUTRAL, "vllm": {**NEUTRAL, "typical_p": 1}}
SAMPLED: dict[str, Legitimate] = {
    "model": null,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "n": whole(1, 16),
    "max_tokens": whole(1),
    "stop": lambda value: text(256)(value) or value == [],
    "seed": whole(-(2**63), 2**63 - 1),
    "stream": flag,
    "stream_options": null,
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "logit_bias": empty(dict),
    "top_k": whole(-1),
    "min_p": number(0, 1),
    "repetition_penalty": number(0.01, 100),
    "ignore_eos": flag,
    "min_tokens": whole(0, 2),
    "prompt_logprobs": whole(0, 20),
    "response_format": null,
    **dict.fromkeys(
        ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"), unread
    ),
    "prompt_cache_retention": unread,
}  # fmt: skip
OPENAI: dict[str, dict[str, Legitimate]] = {
    "/v1/chat/completions": {
        **SAMPLED,
        "messages": lambda value: False,
        "max_completion_tokens": whole(1),
        "logprobs": flag,
        "top_logprobs": whole(0, 0),
        "tools": empty(list),
        "tool_choice": null,
        "parallel_tool_calls": flag,
        "reasoning_effort": null,
        "chat_template_kwargs": empty(dict),
    },
    "/v1/completions": {
        **SAMPLED,
        "prompt": needed(text()),
        "echo": flag,
        "logprobs": whole(0, 20),
        "suffix": null,
        "best_of": whole(1, 1),
    },
    "/tokenize": {"model": null, "prompt": needed(text()), "messages": null, "chat_template_kwargs": empty(dict)},
    "/detokenize": {"model": null, "tokens": needed(empty(list))},
}
VALID: dict[str, dict[str, Any]] = {
    "/chat": {"prompt": "w1 w2", "generate_kwargs": {"max_new_tokens": 2}},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "w1"}], "max_tokens": 2, "temperature": 0},
    "/v1/completions": {"prompt": "w1 w2", "max_tokens": 2, "temperature": 0},
    "/tokenize": {"prompt": "w1"},
    "/detokenize": {"tokens": [1]},
}


def _turn(value: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": value}]}


def _schema(value: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}}


def _tool(value: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": value}}]}


Field = Callable[[Any], dict[str, Any]]
WITHIN: list[tuple[str, str, Field, Legitimate]] = [
    ("/chat", "a message", lambda value: {"prompt": None, **_turn(value)}, needed(text())),
    ("/chat", "a role", lambda value: {"prompt": None, "messages": [{"role": value, "content": "a"}]}, lambda _: False),
    ("/chat", "an end", lambda value: {"generate_kwargs": {"eos_token_id": [value]}}, needed(whole(0, 64))),
    ("/v1/chat/completions", "a message", _turn, needed(text())),
    ("/v1/chat/completions", "a schema", _schema, needed(empty(dict))),
    ("/v1/chat/completions", "a tool", _tool, lambda _: False),
    (
        "/v1/completions",
        "a prompt",
        lambda value: {"prompt": [value]},
        lambda v: needed(text())(v) or needed(whole(0, 64))(v),
    ),
    ("/tokenize", "a message", lambda value: {"prompt": None, **_turn(value)}, needed(text())),
    ("/detokenize", "a token", lambda value: {"tokens": [value]}, needed(whole(0, 64))),
]
BOTH: list[tuple[str, Field, Legitimate]] = [
    ("usage", lambda value: {"stream": True, "stream_options": {"include_usage": value}}, flag),
    ("a bias", lambda value: {"logit_bias": {"5": value}}, needed(number(-100, 100))),
    ("a format", lambda value: {"response_format": {"type": value}}, lambda _: False),
    ("a stop", lambda value: {"stop": [value]}, needed(text(256))),
    ("an unknown field", lambda value: {"nobody_knows": value}, lambda _: False),
]


def _field(name: str) -> Field:
    return lambda value: {name: value}


def _option(name: str) -> Field:
    return lambda value: {"generate_kwargs": {"max_new_tokens": 2, name: value}}


@dataclass(frozen=True)
class Case:
    """One request, and the statuses of which its reply must have one."""

    name: str
    path: str
    content: bytes
    statuses: frozenset[int]
    content_type: str | None = "application/json"


def grid(engine: str) -> Iterator[Case]:
    """Every value of every parameter, and of what is within them."""
    for path, fields in {"/chat": CHAT, **OPENAI}.items():
        for name, legitimate in fields.items():
            yield from _row(path, name, _field(name), legitimate)
    for name, legitimate in GENERATE_KWARGS.items():
        if name in (neutral := NEUTRAL_TO.get(engine, {})):
            legitimate = _neutral(legitimate, neutral[name])
        yield from _row("/chat", name, _option(name), legitimate)
    yield from _within(engine)
    for path in ("/v1/chat/completions", "/v1/completions"):
        for name, field, legitimate in BOTH:
            yield from _row(path, name, field, legitimate)


def _within(engine: str) -> Iterator[Case]:
    for path, name, field, legitimate in WITHIN:
        for case in _row(path, name, field, legitimate):
            # The tiny model has no token of JSON, which vLLM may say where the others end.
            some = {400} if (engine, name) == ("vllm", "a schema") else set()
            yield replace(case, statuses=case.statuses | some)


def _neutral(legitimate: Legitimate, neutral: Any) -> Legitimate:
    return lambda value: legitimate(value) and (value is None or value == neutral)


def _row(path: str, name: str, field: Field, legitimate: Legitimate) -> Iterator[Case]:
    for value_name, value in VALUES.items():
        statuses = {200} if legitimate(value) else {400, 422} if path == "/chat" else {400}
        if name == "model" and value and isinstance(value, str) and value != "\ud800":
            statuses = {404}
        content = json.dumps({**VALID[path], **field(value)}).encode()
        yield Case(f"{path} {name} {value_name}", path, content, frozenset(statuses))


TURN = b'{"messages": [{"role": "user", "content": "w1"}], '
BODIES: dict[str, tuple[bytes, str | None, int]] = {
    "nothing": (b"", "application/json", 422),
    "no JSON": (b"{", "application/json", 422),
    "another encoding": ('{"prompt": "é"}'.encode("latin-1"), "application/json", 422),
    "a list": (b"[]", "application/json", 422),
    "null": (b"null", "application/json", 422),
    "200,000 brackets": (b"[" * 200_000, "application/json", 422),
    "100,000 brackets in a field": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", 422),
    "a deep conversation": (b'{"messages": ' + b'[{"content":' * 50_000, "application/json", 422),
    "a number of 5,000 digits": (b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", "application/json", 422),
    "more than a body may have": (b'{"prompt": "' + b"a" * (2 << 20) + b'"}', "application/json", 413),
    "a form": (b'{"prompt": "a"}', "application/x-www-form-urlencoded", 415),
    "no content type": (b'{"prompt": "a"}', None, 415),
}


def bodies() -> Iterator[Case]:
    """Each of BODIES to each endpoint; the OpenAI API knows no 422."""
    for path in VALID:
        for name, (content, content_type, status) in BODIES.items():
            told = 400 if status == 422 and path != "/chat" else status
            yield Case(f"{path} {name}", path, content, frozenset({told}), content_type)


def deep() -> Iterator[Case]:
    """Schemas and tools of a hundred levels, which is too many for nobody but the tiny model."""
    schema = b'{"properties": {"a": ' * 100 + b"{}" + b"}}" * 100
    tool = b'{"a": ' * 400 + b"{}" + b"}" * 400
    format_ = b'"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": ' + schema + b"}}}"
    tools = b'"tools": [{"type": "function", "function": {"name": "f", "parameters": ' + tool + b"}}]}"
    for name, body in {"a deep schema": TURN + format_, "a deep tool": TURN + tools}.items():
        yield Case(name, "/v1/chat/completions", body, frozenset({200, 400}))


def at_the_context(context: int) -> Iterator[Case]:
    """Prompts one token shorter than the context, of its length, over it, and far over it."""
    for length in (context - 1, context, context + 1, 100 * context):
        for path, limits in {"/chat": {}, "/v1/completions": {"max_tokens": 4}}.items():
            status = 200 if length < context else 400
            content = json.dumps({"prompt": " ".join(["w1"] * length), **limits}).encode()
            wrong = path == "/chat" and length < context and length >= 200  # KAITO's max_length counts the prompt
            yield Case(f"{path} of {length}", path, content, frozenset({400 if wrong else status}))
        ids = json.dumps({"prompt": [10] * length, "max_tokens": 4}).encode()
        yield Case(f"{length} ids", "/v1/completions", ids, frozenset({200 if length < context else 400}))
        words = " ".join(["w1"] * (length - 2))  # and two roles
        turn = json.dumps({"messages": [{"role": "user", "content": words}], "max_tokens": 4}).encode()
        status = 200 if length < context else 400
        yield Case(f"a conversation of {length}", "/v1/chat/completions", turn, frozenset({status}))


def right_envelope(path: str, content: Mapping[str, Any]) -> bool:
    """Whether an error is told as the clients of that endpoint expect it."""
    if path == "/chat":
        return set(content) == {"detail"}
    return set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}
