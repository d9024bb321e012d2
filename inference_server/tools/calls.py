"""Tool calls out of an answer's text, as it comes: what is a call is held back until it is whole, the rest is shown."""

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference_server.text import overlap
from inference_server.tools import pythonic
from inference_server.tools.format import ToolFormat

ID = string.ascii_letters + string.digits
FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
NAME = re.compile(r"\s*([^\s<]+)\s*")
PAIR = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
FENCE = re.compile(r"```(?:tool_code|tool_call|python)?[ \t]*\n")
"""Gemma 3 likes to put its calls into one."""
LONGEST_FENCE = 16
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called; ``arguments`` is JSON's text, as the OpenAI API has it."""

    id: str
    name: str
    arguments: str


Read = tuple[list[ToolCall], str]
"""Calls that were read, and the text after them."""


class CallReader:
    """One answer's calls. ``push`` text, get what of it is text for the reader and what are calls."""

    def __init__(self, written: ToolFormat, *, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self._format = written
        self._schemas = schemas
        self._begin, self._end = written.begin.strip(), written.end.strip()
        self._held = ""
        self.reasoning = ""
        """What it thought, where that is told apart: nowhere here."""
        self._inside = self._plain = self._any = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """The text and the calls that are whole now."""
        self._held += text
        shown, calls = "", list[ToolCall]()
        while True:
            if not self._inside:
                shown += self._outside()
            if not self._inside:
                break
            if (read := self._read()) is None:
                break
            whole, (found, self._held) = self._held, read
            if not found:  # it began like a call and is none, as an empty list does
                self._plain, self._held = True, self._begin + whole
            calls += found
            self._any = self._any or bool(found)
            self._inside = False
        return shown, calls

    def finish(self) -> tuple[str, list[ToolCall]]:
        """At the end of the answer: a call whose end mark is missing is one; what is no call after all is text."""
        calls = list[ToolCall]()
        if self._inside and (read := self._read(last=True)) is not None and read[0]:
            calls, self._held = read
            self._inside = False
        rest, self._held = (self._begin if self._inside else "") + self._held, ""
        self._inside = False
        return ("" if (self._any or calls) and not rest.strip() else rest), calls

    def _outside(self) -> str:
        """Text before a call. Sets ``_inside`` if one begins."""
        if self._plain:
            shown, self._held = self._held, ""
            return shown
        if not self._begin:
            return self._at_once()
        before, begun, after = self._held.partition(self._begin)
        if begun:
            self._inside, self._held = True, after
            return before.rstrip()
        # Space before a call is no text of its own; it is shown with what follows, if anything does.
        cut = len(self._held[: len(self._held) - overlap(self._held, self._begin)].rstrip())
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _at_once(self) -> str:
        """Where a call has no mark before it: only an answer that begins with a brace may be one."""
        start = self._held.lstrip(" \n;" if self._any else None)  # Llama writes "; " between calls, where it writes two
        if not start:
            return ""
        if self._format.shape == "python":
            if fence := FENCE.match(start):
                self._begin, self._end, start = fence[0], "```", start[fence.end() :]
                self._inside, self._held = True, start
                return ""
            if start[0] == "`" and "\n" not in start and len(start) < LONGEST_FENCE:
                return ""
        self._inside = start[0] in ("[" if self._format.shape == "python" else "{[")
        if self._inside:
            self._held = start
            return ""
        self._plain = True
        return self._outside()

    def _read(self, *, last: bool = False) -> Read | None:
        """The calls at the beginning of what is held; none of them if it is something else, None if more must come."""
        read = {
            "xml": self._read_xml,
            "named": self._read_named,
            "pairs": self._read_pairs,
            "python": self._read_python,
        }.get(self._format.shape, self._read_json)()
        if read is None or not read[0]:
            return read
        rest = read[1].lstrip()
        if rest.startswith(self._end):
            return read[0], rest[len(self._end) :]
        waiting = not last and (not rest or self._end.startswith(rest))
        return None if waiting else read

    def _read_json(self) -> Read | None:
        start = len(self._held) - len(self._held.lstrip())
        try:
            value, end = json.JSONDecoder().raw_decode(self._held, start)
        except (ValueError, RecursionError):
            return None
        calls = [self._call(each) for each in (value if isinstance(value, list) else [value])]
        whole = [call for call in calls if call is not None]
        return (whole, self._held[end:]) if len(whole) == len(calls) else ([], self._held)

    def _call(self, written: Any) -> ToolCall | None:
        """``arguments`` and ``parameters`` are both understood: models mix them up."""
        if not isinstance(written, dict):
            return None
        name = written.get(self._format.keys[0])
        keys = (self._format.keys[1], "arguments", "parameters")
        arguments: Any = next((written[key] for key in keys if key in written), {})
        return made(name, arguments) if isinstance(name, str) and isinstance(arguments, dict | str) else None

    def _read_named(self) -> Read | None:
        name, found, rest = self._held.partition(self._format.middle)
        if not found:
            return None
        try:
            arguments, end = json.JSONDecoder().raw_decode(rest, len(rest) - len(rest.lstrip()))
        except (ValueError, RecursionError):
            return None
        return ([made(name.strip(), arguments)], rest[end:]) if isinstance(arguments, dict) else ([], self._held)

    def _read_xml(self) -> Read | None:
        if not (found := FUNCTION.match(self._held)):
            return None
        name = found[1].strip()
        known = self._parameters(name)
        arguments = {key: _typed(value, known.get(key)) for key, value in PARAMETER.findall(found[2])}
        return [made(name, arguments)], self._held[found.end() :]

    def _read_pairs(self) -> Read | None:
        if not (name := NAME.match(self._held)):
            return ([], self._held) if self._held.strip() else None
        known, place, arguments = self._parameters(name[1]), name.end(), dict[str, Any]()
        while pair := PAIR.match(self._held, place):
            key = pair[1].strip()
            arguments[key], place = _typed(pair[2], known.get(key)), pair.end()
        rest = self._held[place:].lstrip()
        if rest.startswith(self._end):
            return [made(name[1], arguments)], rest
        begun = any(mark.startswith(rest[: len(mark)]) for mark in ("<arg_key>", self._end))
        return None if begun else ([], self._held)

    def _read_python(self) -> Read | None:
        start = self._held.lstrip()
        try:
            calls, rest = pythonic.read(start)
        except pythonic.Unfinished:
            return None
        except (ValueError, RecursionError):
            return [], self._held
        if not self._format.begin and not all(name in self._schemas for name, _, _ in calls):
            return [], self._held  # without a mark it may as well be a list of something else
        return [made(name, {**self._places(name, values), **named}) for name, values, named in calls], rest

    def _places(self, name: str, values: Sequence[Any]) -> dict[str, Any]:
        """Values without names, by their place in the schema."""
        return dict(zip(self._parameters(name), values, strict=False))

    def _parameters(self, name: str) -> Mapping[str, Any]:
        of = self._schemas.get(name, {}).get("properties")
        return of if isinstance(of, dict) else {}


def made(name: str, arguments: Mapping[str, Any] | str) -> ToolCall:
    """A call with a new id: nine letters and digits, for some templates (Mistral) take no other."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a character cannot be sent
    return ToolCall("".join(secrets.choice(ID) for _ in range(9)), name, text)


def _typed(value: str, schema: Any) -> Any:
    """A parameter's text as the value that its schema means: JSON, unless it is a string."""
    kinds: Any = schema.get("type") if isinstance(schema, dict) else None
    if kinds == "string" or (isinstance(kinds, Sequence) and "string" in kinds and value != "null"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
