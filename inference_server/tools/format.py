"""How a model writes its tool calls, learned from its chat template: the template is asked to write down a known call,
and what it puts around the name and the arguments is the format. So there is no table of model families to keep."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

Shape = Literal["json", "named", "xml", "pairs", "python", "channels"]
"""json: ``{"name": …, "arguments": {…}}``; named: the name, something, the arguments as JSON; xml: ``<function=…>`` and
in it ``<parameter=…>`` (Qwen 3.5, Nemotron); pairs: the name, then ``<arg_key>…</arg_key>`` and ``<arg_value>`` (GLM);
python: ``[name(key="value")]`` (LFM2, Llama 4); channels: a message to the function (gpt-oss, see ``channels``)."""

ByHand = Literal["nothing", "calls", "system", "everything"]
"""What the template does not write, so that it goes into the messages (see ``by_hand``): earlier calls; or tools too,
which it looks for in the system's message; or tools, calls and results, for which it has no place."""

NAME, KEY, VALUE, USER, TEXT = "probe_name", "probe_key", "probe_value", "probe_user", "probe_text"
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {KEY: {"type": "string", "description": "A key."}},
            "required": [KEY],
        },
    },
}
XML_CALL = f"<function={NAME}>\n<parameter={KEY}>\n{VALUE}\n</parameter>\n</function>"
PAIRS_CALL = re.compile(rf"{NAME}(\s*)<arg_key>{KEY}</arg_key>(\s*)<arg_value>{VALUE}</arg_value>(\s*)(?=\S)")
PAIR_MARKS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
PYTHON_CALL = re.compile(rf"\[{NAME}\({KEY}=(['\"]){VALUE}\1\)\]")
CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
THOUGHT = re.compile(r"\s*<think>(?:.*?</think>)?\s*", re.DOTALL)


class Render(Protocol):
    """A conversation as the model's template writes it; None if it refuses."""

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]], reply: bool
    ) -> str | None:
        """``reply``: up to where the assistant's reply begins."""
        ...


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """What stands before, in and after a call."""

    shape: Shape
    begin: str
    """Before a call, or before the list of them; empty where a call is all of the answer (Llama 3.1)."""
    end: str
    listed: bool = False
    """The calls are one JSON list."""
    keys: tuple[str, str] = ("name", "arguments")
    middle: str = ""
    """Between a name and its arguments, for the shape ``named``."""
    between: str | None = None
    """Between two calls that are not a list; None if the template knows one call only."""
    by_hand: ByHand = "nothing"
    arguments_as_text: bool = False
    """The template wants the arguments of earlier calls as JSON's text."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens with a meaning of their own (added to the vocabulary) that are part of all this."""

    @property
    def several(self) -> bool:
        """Whether an answer can have more than one call."""
        return self.listed or self.between is not None


@dataclass(frozen=True, slots=True)
class NoTools:
    """This model cannot be given tools; ``reason`` is for the one who asked."""

    reason: str


UNWRITTEN = (
    ToolFormat("python", "<|tool_call_start|>", "<|tool_call_end|>", listed=True, by_hand="calls"),
    ToolFormat("json", "<|tool_call|>", "<|/tool_call|>", listed=True, by_hand="calls"),
    ToolFormat("json", "<|tool_call|>", "", listed=True, by_hand="calls"),
    ToolFormat("json", "<tool_call>\n", "\n</tool_call>", between="\n", by_hand="calls"),
)


def learn(render: Render, *, added: Mapping[str, int]) -> ToolFormat | NoTools:
    """The format. ``added``: the tokens that were added to the vocabulary, by their text."""
    shown = render([_user()], tools=[TOOL], reply=True)
    if shown is None or NAME not in shown:
        nowhere = NoTools("the chat template of this model has no place for tools: leave them out")
        return _phi4_mini(render, added=added) or _gemma3(render) or nowhere
    bodies = [_body(render, calls=1, as_text=as_text) for as_text in (False, True)]
    for as_text, body in enumerate(bodies):
        if body is not None and (found := _found(body, added=added)):
            two = _body(render, calls=2, as_text=bool(as_text))
            return _completed(found, two=two, as_text=bool(as_text), added=added)
    if bodies == [None, None] and (unwritten := _unwritten(added)):
        return unwritten
    return NoTools("this model writes its tool calls in a way that this server does not know: leave tools out")


def _user() -> dict[str, Any]:
    return {"role": "user", "content": USER}


def _body(render: Render, *, calls: int, as_text: bool) -> str | None:
    """What the assistant writes to call the probe: without the head of its turn, thoughts, and the turn's end."""
    arguments: Any = {KEY: VALUE}
    function = {"name": NAME, "arguments": json.dumps(arguments) if as_text else arguments}
    made = [{"id": f"abcdefgh{n}", "type": "function", "function": function} for n in range(calls)]
    turn = {"role": "assistant", "content": "", "tool_calls": made}
    head, whole = (
        _after(render(m, tools=[TOOL], reply=r), USER) for m, r in (([_user()], True), ([_user(), turn], False))
    )
    said = [_user(), {"role": "assistant", "content": TEXT}]
    tail = _after(render(said, tools=[TOOL], reply=False), TEXT)
    if head is None or whole is None or NAME not in whole:
        return None
    head = re.sub(rf"{THOUGHT.pattern}$", "", head, flags=re.DOTALL)
    body = whole[len(head) :] if whole.startswith(head) else whole
    body = body[thought.end() :] if (thought := THOUGHT.match(body)) else body
    return body.removesuffix(tail or "")


def _after(text: str | None, mark: str) -> str | None:
    return None if text is None or mark not in text else text[text.rindex(mark) + len(mark) :]


def _gemma3(render: Render) -> ToolFormat | None:
    """Gemma 3, which was trained to call functions that a prompt tells of in words
    (ai.google.dev/gemma/docs/capabilities/function-calling). Templates of Gemma 1 and 2 refuse a system's message."""
    shown = render([{"role": "system", "content": TEXT}, _user()], tools=[], reply=True) or ""
    known = shown.endswith("<start_of_turn>model\n") and TEXT in shown
    return ToolFormat("python", "", "", listed=True, by_hand="everything") if known else None


def _phi4_mini(render: Render, *, added: Mapping[str, int]) -> ToolFormat | None:
    """Phi 4 mini, whose template looks for tools in the system's message."""
    system = {"role": "system", "content": TEXT, "tools": json.dumps([TOOL["function"]])}
    shown = render([system, _user()], tools=[], reply=True) or ""
    found = _unwritten(added) if NAME in shown else None
    return replace(found, by_hand="system") if found else None


def _unwritten(added: Mapping[str, int]) -> ToolFormat | None:
    """Of a template that shows tools and leaves earlier calls out (Granite 3, SmolLM 3, LFM2 at first): known by the
    tokens that the model has for calls."""
    for form in UNWRITTEN:
        marks = [mark.strip() for mark in (form.begin, form.end) if mark]
        if all(mark in added for mark in marks):
            return replace(form, tokens={mark: added[mark] for mark in marks})
    return None


def _found(body: str, *, added: Mapping[str, int]) -> ToolFormat | None:
    return _channels(body) or _json(body) or _xml(body) or _named(body, added=added) or _pairs(body) or _python(body)


def _json(body: str) -> ToolFormat | None:
    for found in re.finditer(r"{", body):
        try:
            call, end = json.JSONDecoder().raw_decode(body, found.start())
        except ValueError:
            continue
        names = [key for key, value in call.items() if value == NAME]
        arguments = [key for key, value in call.items() if value in ({KEY: VALUE}, json.dumps({KEY: VALUE}))]
        if not names or not arguments:
            continue
        before, after = body[: found.start()], body[end:]
        listed = before.rstrip().endswith("[") and after.lstrip().startswith("]")
        if listed:
            before, after = before.rstrip()[:-1], after.lstrip()[1:]
        return ToolFormat("json", before, after, listed=listed, keys=(names[0], arguments[0]))
    return None


def _xml(body: str) -> ToolFormat | None:
    before, found, after = body.partition(XML_CALL)
    return ToolFormat("xml", before, after) if found else None


def _named(body: str, *, added: Mapping[str, int]) -> ToolFormat | None:
    """Only with a token of its own at the beginning: other words before a name may be anything."""
    before, _, rest = body.partition(NAME)
    start = rest.find("{")
    try:
        arguments, end = json.JSONDecoder().raw_decode(rest, start) if start > 0 else ({}, 0)
    except ValueError:
        return None
    if arguments != {KEY: VALUE} or not any(before.lstrip().startswith(token) for token in added):
        return None
    return ToolFormat("named", before, rest[end:], middle=rest[:start])


def _pairs(body: str) -> ToolFormat | None:
    found = PAIRS_CALL.search(body)
    if not found or len({*found.groups()}) > 1:
        return None
    return ToolFormat("pairs", body[: found.start()], body[found.end() :], middle=found[1])


def _python(body: str) -> ToolFormat | None:
    found = PYTHON_CALL.search(body)
    return ToolFormat("python", body[: found.start()], body[found.end() :], listed=True) if found else None


def _channels(body: str) -> ToolFormat | None:
    return ToolFormat("channels", "", "") if f"to=functions.{NAME}<|channel|>commentary" in body else None


def _completed(found: ToolFormat, *, two: str | None, as_text: bool, added: Mapping[str, int]) -> ToolFormat:
    own = {"pairs": PAIR_MARKS, "channels": CHANNEL_MARKS}.get(found.shape, ())
    marks = (found.begin, found.middle, found.end, *own)
    return replace(
        found,
        between=None if found.listed or two is None else _between(two, found),
        arguments_as_text=as_text,
        tokens={token: number for token, number in added.items() if any(token in mark for mark in marks)},
    )


def _between(two: str, found: ToolFormat) -> str | None:
    """The space between two calls, each in marks of its own; None if they are not written so."""
    if not found.end.strip() + found.begin.strip():
        return None
    space = re.search(rf"{re.escape(found.end.rstrip())}(\s*){re.escape(found.begin.lstrip())}", two)
    return space[1] if space else None
