"""Tools in a conversation whose template does not know them: what it would have to write goes into the messages' text.

Where it knows nothing of tools (Gemma 3) the system's message tells of them, in the notation that Google's guide to
calling functions with Gemma names, and results come as the user's; where it knows all but earlier calls (LFM2), those.
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

Turn = dict[str, Any]


def put(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], *, written: ToolFormat) -> list[Turn]:
    """The messages as this model's template can write them; with ``by_hand`` everything, ``tools`` are among them."""
    turns = [_with_calls(turn, written) for turn in turns]
    if written.by_hand == "calls":
        return turns
    told = "\n".join([HOW, *(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)]) if tools else ""
    system = [turn["content"] for turn in turns[:1] if turn["role"] == "system"]
    texts = [*system, *([told] if told else [])]
    first = [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
    return [*first, *_alternating(turns[len(system) :])]


def _with_calls(turn: Turn, written: ToolFormat) -> Turn:
    if not (calls := turn.get("tool_calls")):
        return turn
    named = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    text = f"{turn['content']}{written.begin}{pythonic.write(named)}{written.end}"
    return {"role": turn["role"], "content": text}


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
