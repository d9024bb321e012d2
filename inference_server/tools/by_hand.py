"""Tools in a conversation whose template does not know them: what it would have to write goes into the messages' text.

Where it knows nothing of tools (Gemma 3) the system's message tells of them, in the notation that Google's guide to
calling functions with Gemma names, and results come as the user's. Where it looks for them in the system's message (Phi
4 mini) they are put there. Where it knows all but earlier calls (Granite 3, SmolLM 3, LFM2), those are written here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from inference_server.tools import pythonic
from inference_server.tools.format import ToolFormat

HOW = """\
You can call functions. To call some, answer with a list of calls and nothing else, written as in Python:
[name(parameter="text", other=1), name(parameter=True)]
Give every parameter by its name, use no variables and no Markdown. Their results come in the next message. If no
function helps, or what one needs is not known, answer in words. The functions, as JSON:"""

ROLE_OF_RESULTS = "tool_response"
"""Phi 4 mini's template makes a token of the role's name, and this one is what the model has for results."""
HELPFUL = "You are a helpful assistant with some tools."
"""What the card of Phi 4 mini has where nobody says anything."""

Turn = dict[str, Any]


def put(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], *, written: ToolFormat) -> list[Turn]:
    """The messages as this model's template can write them, with ``tools`` among them unless it writes those."""
    turns = [_with_calls(turn, written) for turn in turns]
    if written.by_hand == "calls":
        return turns
    if written.by_hand == "system":
        return _in_system(turns, tools)
    told = "\n".join([HOW, *(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)]) if tools else ""
    system = [turn["content"] for turn in turns[:1] if turn["role"] == "system"]
    texts = [*system, *([told] if told else [])]
    first = [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
    return [*first, *_alternating(turns[len(system) :])]


def _in_system(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Turn]:
    results = [{**turn, "role": ROLE_OF_RESULTS} if turn["role"] == "tool" else turn for turn in turns]
    if not tools:
        return results
    own = bool(results) and results[0]["role"] == "system"
    system = results[0] if own else {"role": "system", "content": HELPFUL}
    named = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    return [{**system, "tools": named}, *results[own:]]


def _with_calls(turn: Turn, written: ToolFormat) -> Turn:
    if not (calls := turn.get("tool_calls")):
        return turn
    named = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return {"role": turn["role"], "content": f"{turn['content']}{_text(named, written)}"}


def _text(calls: Sequence[tuple[str, Mapping[str, Any]]], written: ToolFormat) -> str:
    if written.shape == "python":
        return f"{written.begin}{pythonic.write(calls)}{written.end}"
    name, under = written.keys
    each = [json.dumps({name: called, under: arguments}, ensure_ascii=False) for called, arguments in calls]
    if written.listed:
        return f"{written.begin}[{', '.join(each)}]{written.end}"
    return (written.between or "").join(f"{written.begin}{call}{written.end}" for call in each)


def _alternating(turns: Sequence[Turn]) -> list[Turn]:
    """Results as the user's, and one message for what user and functions say one after the other: roles alternate."""
    merged: list[Turn] = []
    for turn in turns:
        if turn["role"] == "tool":
            turn = {"role": "user", "content": f"```tool_output\n{turn['content']}\n```"}
        if merged and turn["role"] == merged[-1]["role"] == "user":
            merged[-1]["content"] += f"\n{turn['content']}"
        else:
            merged.append(dict(turn))
    return merged
