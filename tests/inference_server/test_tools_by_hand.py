"""Tools where the template has no place for them, or none for earlier calls: written into the messages' own text."""

import json
from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import AutoTokenizer

from inference_server.tools.by_hand import HELPFUL, HOW, put
from inference_server.tools.format import ToolFormat

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
GEMMA3 = ToolFormat("python", "", "", listed=True, by_hand="everything")
LFM2 = ToolFormat("python", "<|tool_call_start|>", "<|tool_call_end|>", listed=True, by_hand="calls")
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def called(**arguments: Any) -> dict[str, Any]:
    return {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain in Oslo and Bergen?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [called(city='Os"lo', now=True), called(city="Bergen", days=[1])],
    },
    {"role": "tool", "content": "dry", "tool_call_id": "a1", "name": "weather"},
    {"role": "tool", "content": "wet", "tool_call_id": "a2", "name": "weather"},
    {"role": "user", "content": "Sure?"},
]
CALLS = '[weather(city="Os\\"lo", now=True), weather(city="Bergen", days=[1])]'


def rendered(smollm2: Path, template: str, messages: list[dict[str, Any]]) -> str:
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
    tokenizer.bos_token = "<bos>"
    text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text


def test_gemma_3_is_told_of_tools_by_the_system_and_of_results_by_the_user(smollm2: Path) -> None:
    assert rendered(smollm2, "gemma3", put(CONVERSATION[:-1], TOOLS, written=GEMMA3)) == (
        f"<bos><start_of_turn>user\nBe brief.\n\n{HOW}\n{json.dumps(FUNCTION)}\n\n"
        "Rain in Oslo and Bergen?<end_of_turn>\n"
        f"<start_of_turn>model\n{CALLS}<end_of_turn>\n"
        "<start_of_turn>user\n```tool_output\ndry\n```\n```tool_output\nwet\n```<end_of_turn>\n<start_of_turn>model\n"
    )


def test_what_the_user_says_after_a_result_is_in_the_same_message_for_roles_must_alternate(smollm2: Path) -> None:
    assert rendered(smollm2, "gemma3", put(CONVERSATION, TOOLS, written=GEMMA3)).endswith(
        "```tool_output\nwet\n```\nSure?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_without_tools_earlier_calls_are_shown_all_the_same() -> None:
    made = put(CONVERSATION[1:-1], (), written=GEMMA3)
    assert made[:2] == [CONVERSATION[1], {"role": "assistant", "content": CALLS}]


@pytest.mark.parametrize("said", ["", "Let me see. "])
def test_lfm2_is_shown_earlier_calls_in_its_own_marks(said: str, smollm2: Path) -> None:
    conversation = [dict(turn) for turn in CONVERSATION]
    conversation[2]["content"] = said
    text = rendered(smollm2, "lfm2", put(conversation, TOOLS, written=LFM2))
    assert f"<|im_start|>assistant\n{said}<|tool_call_start|>{CALLS}<|tool_call_end|><|im_end|>\n" in text
    assert "<|im_start|>tool\n<|tool_response_start|>dry<|tool_response_end|><|im_end|>" in text


HERE = {
    "as Granite 3": (
        ToolFormat("json", "<|tool_call|>", "", listed=True, by_hand="calls"),
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "weather", "arguments": {}}]',
    ),
    "as SmolLM 3": (
        ToolFormat("json", "<tool_call>\n", "\n</tool_call>", between="\n", by_hand="calls"),
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>',
    ),
}


@pytest.mark.parametrize("family", HERE)
def test_calls_are_written_as_the_model_writes_them(family: str) -> None:
    written, text = HERE[family]
    turns = [CONVERSATION[1], {"role": "assistant", "content": "", "tool_calls": [called(city="Oslo"), called()]}]
    assert put(turns, TOOLS, written=written) == [CONVERSATION[1], {"role": "assistant", "content": text}]


@pytest.mark.parametrize(("system", "said"), [(CONVERSATION[:1], "Be brief."), ([], HELPFUL)])
def test_phi_4_mini_finds_tools_in_the_systems_message_and_results_under_its_own_name(
    system: list[dict[str, Any]], said: str
) -> None:
    written = ToolFormat("json", "<|tool_call|>", "<|/tool_call|>", listed=True, by_hand="system")
    turn = {"role": "assistant", "content": "", "tool_calls": [called(city="Oslo")]}
    assert put([*system, CONVERSATION[1], turn, CONVERSATION[3]], TOOLS, written=written) == [
        {"role": "system", "content": said, "tools": json.dumps([FUNCTION])},
        CONVERSATION[1],
        {
            "role": "assistant",
            "content": '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>',
        },
        {**CONVERSATION[3], "role": "tool_response"},
    ]
