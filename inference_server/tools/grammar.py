"""Grammars of answers that call tools, in the language of llguidance: for choices that leave the model none."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inference_server.tools.format import ToolFormat

MOST_CALLS = 16
AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON with the spaces that chat templates write."""
NEXT = "<|end|><|start|>assistant"
ANYTHING = {"type": "object"}


def forced(written: ToolFormat, schemas: Mapping[str, Mapping[str, Any]], *, most: int, text_too: bool = False) -> str:
    """An answer of one or more calls of these functions (name → JSON schema of the arguments), and nothing else; with
    ``text_too`` also an answer of text, or text and then calls, whose arguments keep the schemas."""
    mark = _Marks(written.tokens)
    rules = _in_channels(mark, text_too=text_too) if written.shape == "channels" else []
    rules = rules or _answer(written, mark, many=min(most, MOST_CALLS) if written.several else 1, text_too=text_too)
    rules.append(f"call: {' | '.join(f'tool_{number}' for number in range(len(schemas)))}")
    for number, (name, schema) in enumerate(schemas.items()):
        rules += _tool(number, name, schema, written=written, mark=mark)
    return "\n".join(rules)


def _answer(written: ToolFormat, mark: "_Marks", *, many: int, text_too: bool) -> list[str]:
    begin, end = mark(written.begin), mark(written.end)
    if written.listed:
        another = '", " call'
        calls = f'{begin} "[" call {_more(another, many)} "]" {end}'
    else:
        another = f"{mark(written.between or '')} {begin} call {end}"
        calls = f"{begin} call {end} {_more(another, many)}"
    start = f"start: {_text(written)} | {_text(written, before=True)} calls" if text_too else "start: calls"
    return [start, f"calls: {calls}"]


def _in_channels(mark: "_Marks", *, text_too: bool) -> list[str]:
    """It may think, and say what it is about to do, before it calls: that is how it was trained to."""
    return [
        "start: before* (call | final)" if text_too else "start: before* call",
        f'before: {mark("<|channel|>")} ("analysis" | "commentary") {mark("<|message|>")} said {mark(NEXT)}',
        f"final: {mark('<|channel|>final<|message|>')} said",
        r"said: /(.|\n)*/",
    ]


def _more(another: str, many: int) -> str:
    return f"({another}){{0,{many - 1}}}" if many > 1 else ""


class _Marks:
    """Text as terminals of the grammar; a token with a meaning of its own is named by its id."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = tokens
        self._pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")

    def __call__(self, text: str) -> str:
        parts, place = [], 0
        for found in self._pattern.finditer(text):
            parts += [_quoted(text[place : found.start()]), f"<[{self._tokens[found[0]]}]>"]
            place = found.end()
        return " ".join(part for part in (*parts, _quoted(text[place:])) if part)


def _quoted(text: str) -> str:
    return json.dumps(text) if text else ""


def _text(written: ToolFormat, *, before: bool = False) -> str:
    """A terminal for text without calls: what the marks' own tokens begin is none of it anyhow."""
    if not written.begin.strip():
        return '""' if before else r"/([^{\[ \n\r\t](.|\n)*)?/"
    first = next((token for token in written.tokens if written.begin.lstrip().startswith(token)), "")
    mark = re.escape(written.begin.strip())
    return r"/(.|\n)*/" if first else rf"(/(.|\n)*/ & ~/(.|\n)*{mark}(.|\n)*/)"


def _tool(number: int, name: str, schema: Mapping[str, Any], *, written: ToolFormat, mark: _Marks) -> list[str]:
    if written.shape == "xml":
        around = _Around(f"<function={name}>\n", "<parameter=", ">\n", "\n</parameter>\n", "</function>")
        return _marked(number, schema, around=around, mark=mark)
    if written.shape == "pairs":
        space = written.middle
        around = _Around(name + space, "<arg_key>", f"</arg_key>{space}<arg_value>", f"</arg_value>{space}", "")
        return _marked(number, schema, around=around, mark=mark)
    if written.shape == "python":
        return _python(number, name, schema)
    arguments = f"args_{number}: {_json(schema or ANYTHING)}"
    if written.shape == "channels":
        head = mark(f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>")
        return [f"tool_{number}: {head} args_{number} {mark('<|call|>')}", arguments]
    if written.shape == "named":
        return [f"tool_{number}: {json.dumps(name)} {mark(written.middle)} args_{number}", arguments]
    head = f'{{"{written.keys[0]}": {json.dumps(name)}, "{written.keys[1]}": '
    return [f'tool_{number}: {json.dumps(head)} args_{number} "}}"', arguments]


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': AS_TRAINED})}"


@dataclass(frozen=True, slots=True)
class _Around:
    """What stands around a call's parameters, and around the key and the value of each."""

    head: str
    key: str
    value: str
    end: str
    tail: str


def _marked(number: int, schema: Mapping[str, Any], *, around: _Around, mark: _Marks) -> list[str]:
    """Each parameter in the schema's order; a string is text up to its end, anything else JSON."""
    rules, parts = [], []
    for place, (key, of, required) in enumerate(_parameters(schema)):
        value, end = f"value_{number}_{place}", mark(around.end)
        parts.append(f"parameter_{number}_{place}{'' if required else '?'}")
        if of.get("type") == "string" and not {"enum", "const", "pattern"} & of.keys():
            if end.startswith("<["):  # a token of its own is no text
                rules.append(f"{value}: /(.|\\n)*/")
            else:
                rules.append(f"{value}[suffix={_quoted(around.end)}]: /(.|\\n)*/")
                end = ""
        elif strings := _strings(of):
            rules.append(f"{value}: {' | '.join(map(_quoted, strings))}")
        else:
            rules.append(f"{value}: {_json(of)}")
        rules.append(f"parameter_{number}_{place}: {mark(around.key + key + around.value)} {value} {end}")
    return [f"tool_{number}: {mark(around.head)} {' '.join(parts)} {mark(around.tail)}", *rules]


def _python(number: int, name: str, schema: Mapping[str, Any]) -> list[str]:
    """What is required comes first, so that the commas are easily placed."""
    rules, required, optional = [], list[str](), list[str]()
    for place, (key, of, needed) in enumerate(_parameters(schema)):
        value = '"True" | "False"' if of.get("type") == "boolean" and "enum" not in of else _json(of)
        parameter = f"parameter_{number}_{place}"
        rules += [f"value_{number}_{place}: {value}", f"{parameter}: {_quoted(f'{key}=')} value_{number}_{place}"]
        (required if needed else optional).append(parameter)

    def more(after: int) -> str:
        return " ".join(f'(", " {each})?' for each in optional[after:])

    arguments = ' ", " '.join(required) + f" {more(0)}"
    if not required:
        arguments = " | ".join(f"{each} {more(at + 1)}" for at, each in enumerate(optional))
        arguments = f"({arguments})?" if optional else ""
    return [f'tool_{number}: {_quoted(f"{name}(")} {arguments} ")"', *rules]


def _parameters(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Each one's name and schema, and whether it must be there."""
    properties, required = schema.get("properties"), schema.get("required")
    for key, of in properties.items() if isinstance(properties, dict) else ():
        needed = isinstance(required, list) and key in required
        yield key, of if isinstance(of, dict) else {}, needed


def _strings(of: Mapping[str, Any]) -> list[str]:
    """The values of a parameter that is one of some strings."""
    values = of.get("enum", [of["const"]] if "const" in of else [])
    return list(values) if values and all(isinstance(value, str) for value in values) else []
