"""Calls as Python writes them, ``[weather(city="Oslo", days=3)]``: read without running anything, and written."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<word>[A-Za-z_][\w.-]*)|(?P<sign>[][(){},:=]))""",
    re.DOTALL,
)
WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
"""Python's and JSON's, for models mix them up."""
CLOSING = {"[": "]", "(": ")", "{": "}"}
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "\n": ""}

Call = tuple[str, list[Any], dict[str, Any]]
"""A function's name, the values without a name, and those with one."""


class Unfinished(Exception):
    """It ends before it is whole."""


def read(text: str) -> tuple[list[Call], str]:
    """The calls of the list that ``text`` begins with, and the text after it.

    Raises Unfinished if more must come, ValueError if it is no such list.
    """
    tokens = _Tokens(text)
    tokens.expect("[")
    calls = [_call(tokens)]
    while tokens.expect(",", "]") == ",":
        calls.append(_call(tokens))
    return calls, text[tokens.place :]


def write(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The list of these calls (a name and its arguments)."""

    def literal(value: Any) -> str:
        return repr(value) if value is None or isinstance(value, bool) else json.dumps(value, ensure_ascii=False)

    def written(name: str, arguments: Mapping[str, Any]) -> str:
        return f"{name}({', '.join(f'{key}={literal(value)}' for key, value in arguments.items())})"

    return f"[{', '.join(written(*call) for call in calls)}]"


class _Tokens:
    """A text token by token; ``place`` is where the next one begins."""

    def __init__(self, text: str) -> None:
        self._text, self.place = text, 0

    def next(self, *, take: bool = True) -> re.Match[str]:
        if not (found := TOKEN.match(self._text, self.place)):
            rest = self._text[self.place :].lstrip()
            raise Unfinished if not rest or rest[0] in "\"'" or rest in ("-", ".", "-.") else ValueError
        if take:
            self.place = found.end()
        return found

    def expect(self, *signs: str) -> str:
        if (found := self.next())["sign"] not in signs:
            raise ValueError
        return found["sign"]


def _call(tokens: _Tokens) -> Call:
    if not (name := tokens.next()["word"]):
        raise ValueError
    tokens.expect("(")
    values, named = list[Any](), dict[str, Any]()
    while tokens.next(take=False)["sign"] != ")":
        before = tokens.place
        key = tokens.next()["word"]
        if key and tokens.next()["sign"] == "=":
            named[key] = _value(tokens)
        else:
            tokens.place = before
            values.append(_value(tokens))
        if tokens.next(take=False)["sign"] != ")":
            tokens.expect(",")
    tokens.expect(")")
    return name, values, named


def _value(tokens: _Tokens) -> Any:
    found = tokens.next()
    if found["string"]:
        return _string(found["string"])
    if found["number"]:
        return float(found["number"]) if set(found["number"]) & set(".eE") else int(found["number"])
    if found["word"]:
        if found["word"] not in WORDS:
            raise Unfinished if found.end() == len(found.string) else ValueError
        return WORDS[found["word"]]
    if found["sign"] not in CLOSING:
        raise ValueError
    return _several(tokens, keyed=found["sign"] == "{", end=CLOSING[found["sign"]])


def _several(tokens: _Tokens, *, keyed: bool, end: str) -> list[Any] | dict[str, Any]:
    values, named = list[Any](), dict[str, Any]()
    while tokens.next(take=False)["sign"] != end:
        value = _value(tokens)
        if keyed:
            tokens.expect(":")
            named[value if isinstance(value, str) else json.dumps(value)] = _value(tokens)
        else:
            values.append(value)
        if tokens.next(take=False)["sign"] != end:
            tokens.expect(",")
    tokens.expect(end)
    return named if keyed else values


def _string(token: str) -> str:
    if token.startswith('"'):
        with suppress(ValueError):
            return str(json.loads(token, strict=False))

    def meant(found: re.Match[str]) -> str:
        number = found[1] or found[2]
        return chr(int(number, 16)) if number else ESCAPED.get(found[3], found[0])

    return ESCAPE.sub(meant, token[1:-1])
