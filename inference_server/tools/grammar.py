"""Grammars of answers that call tools, in the language of llguidance: for choices that leave the model none."""

import json
import re
from collections.abc import Mapping
from typing import Any

from inference_server.tools.format import ToolFormat

MOST_CALLS = 16
AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON with the spaces that chat templates write."""
ANYTHING = {"type": "object"}


def forced(written: ToolFormat, schemas: Mapping[str, Mapping[str, Any]], *, most: int, text_too: bool = False) -> str:
    """An answer of one or more calls of these functions (name → JSON schema of the arguments), and nothing else; with
    ``text_too`` also an answer of text, or text and then calls, whose arguments keep the schemas."""
    many = min(most, MOST_CALLS) if written.several else 1
    mark = _Marks(written.tokens)
    begin, end = mark(written.begin), mark(written.end)
    if written.listed:
        another = '", " call'
        calls = f'{begin} "[" call {_more(another, many)} "]" {end}'
    else:
        another = f"{mark(written.between or '')} {begin} call {end}"
        calls = f"{begin} call {end} {_more(another, many)}"
    rules = [f"calls: {calls}", f"call: {' | '.join(f'tool_{number}' for number in range(len(schemas)))}"]
    rules.insert(0, f"start: {_text(written)} | {_text(written, before=True)} calls" if text_too else "start: calls")
    for number, (name, schema) in enumerate(schemas.items()):
        rules += _tool(number, name, schema, written=written, mark=mark)
    return "\n".join(rules)


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
        return _xml(number, name, schema)
    arguments = f"args_{number}: %json {json.dumps({**(schema or ANYTHING), 'x-guidance': AS_TRAINED})}"
    if written.shape == "named":
        return [f"tool_{number}: {json.dumps(name)} {mark(written.middle)} args_{number}", arguments]
    head = f'{{"{written.keys[0]}": {json.dumps(name)}, "{written.keys[1]}": '
    return [f'tool_{number}: {json.dumps(head)} args_{number} "}}"', arguments]


def _xml(number: int, name: str, schema: Mapping[str, Any]) -> list[str]:
    """Each parameter in the schema's order; a string is text up to its end, anything else JSON."""
    rules, parts = [], []
    properties, required = schema.get("properties"), schema.get("required")
    for place, (key, of) in enumerate(properties.items() if isinstance(properties, dict) else ()):
        value = f"value_{number}_{place}"
        parts.append(f"parameter_{number}_{place}{'' if isinstance(required, list) and key in required else '?'}")
        is_text = isinstance(of, dict) and of.get("type") == "string" and not {"enum", "const", "pattern"} & of.keys()
        end = json.dumps("</parameter>\n")
        if is_text:
            rules.append(f"{value}[suffix={json.dumps(chr(10) + '</parameter>' + chr(10))}]: /(.|\\n)*/")
            end = ""
        elif isinstance(of, dict) and _strings(of):
            rules.append(f"{value}: " + " | ".join(json.dumps(each + "\n") for each in _strings(of)))
        else:
            rules.append(
                f"{value}: %json {json.dumps({**(of if isinstance(of, dict) else {}), 'x-guidance': AS_TRAINED})}"
            )
            end = json.dumps("\n</parameter>\n")
        rules.append(f"parameter_{number}_{place}: {json.dumps(f'<parameter={key}>{chr(10)}')} {value} {end}")
    head, tail = json.dumps(f"<function={name}>\n"), json.dumps("</function>")
    return [f"tool_{number}: {head} {' '.join(parts)} {tail}", *rules]


def _strings(of: Mapping[str, Any]) -> list[str]:
    """The values of a parameter that is one of some strings."""
    values = of.get("enum", [of["const"]] if "const" in of else [])
    return list(values) if values and all(isinstance(value, str) for value in values) else []
