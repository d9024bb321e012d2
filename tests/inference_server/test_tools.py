"""Tool calls: the format learned from the models' own chat templates, read out of text in any pieces, and forced."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest
import trl
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference_server.engines.grammar import Vocabulary
from inference_server.tools.calls import CallReader
from inference_server.tools.format import NoTools, ToolFormat, learn
from inference_server.tools.grammar import forced

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
"""The chat templates of models, as their makers publish them."""
MISTRAL = """\
{%- for m in messages -%}
{%- if m.role == 'user' -%}
{%- if tools and loop.index0 == 0 %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST] {{ m.content }}[/INST]
{%- elif m.tool_calls -%}
[TOOL_CALLS] [{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif -%}
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}
{%- if not loop.last %}, {% endif %}{% endfor %}]</s>
{%- else %} {{ m.content }}</s>{% endif -%}
{%- endfor -%}"""
"""As the models of Mistral up to 2024 have it."""
MISTRAL_2025 = """\
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}[INST]{{ m.content }}[/INST]
{%- elif m.tool_calls -%}
{%- for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}</s>
{%- else %}{{ m.content }}</s>{% endif -%}
{%- endfor -%}"""
AS_TEXT = """\
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for m in messages -%}
<|{{ m.role }}|>{{ m.content }}
{%- for c in m.tool_calls %}<|call|>{{ c.function.name }}<|sep|>{{ '' + c.function.arguments }}<|/call|>{% endfor -%}
<|end|>
{%- endfor -%}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
"""Concatenates the arguments, as the templates of DeepSeek do."""
ADDED = {
    "<tool_call>": 1,
    "</tool_call>": 2,
    "[TOOL_CALLS]": 3,
    "[ARGS]": 4,
    "<|call|>": 5,
    "<|/call|>": 6,
    "<|sep|>": 7,
}


def learned(template: str, tokenizer: Any) -> ToolFormat | NoTools:
    tokenizer.chat_template = template

    def render(messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]], reply: bool) -> str | None:
        try:
            text: str = tokenizer.apply_chat_template(
                list(messages), tools=list(tools), add_generation_prompt=reply, tokenize=False
            )
        except (jinja2.TemplateError, TypeError):
            return None
        return text

    return learn(render, added=ADDED)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    made = AutoTokenizer.from_pretrained(smollm2)
    made.add_tokens(["<tool_call>", "</tool_call>"])
    made.add_tokens(["[TOOL_CALLS]", "[ARGS]"], special_tokens=True)
    return made


QWEN = {"<tool_call>": 1, "</tool_call>": 2}
HERMES = ToolFormat("json", "<tool_call>\n", "\n</tool_call>", between="\n", tokens=QWEN)
LLAMA = ToolFormat("json", "", "", keys=("name", "parameters"))
FORMATS = {
    "qwen2_5": HERMES,
    "qwen3": HERMES,
    "qwen3_vl": HERMES,
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "qwen3_6": ToolFormat("xml", "<tool_call>\n", "\n</tool_call>", between="\n", tokens=QWEN),
    "nemotron_3_nano": ToolFormat("xml", "<tool_call>\n", "\n</tool_call>\n", between="\n", tokens=QWEN),
    MISTRAL: ToolFormat("json", "[TOOL_CALLS] ", "", listed=True, tokens={"[TOOL_CALLS]": 3}),
    MISTRAL_2025: ToolFormat(
        "named", "[TOOL_CALLS]", "", middle="[ARGS]", between="", tokens={"[TOOL_CALLS]": 3, "[ARGS]": 4}
    ),
    AS_TEXT: ToolFormat(
        "named",
        "<|call|>",
        "<|/call|>",
        middle="<|sep|>",
        between="",
        arguments_as_text=True,
        tokens={"<|call|>": 5, "<|/call|>": 6, "<|sep|>": 7},
    ),
}


@pytest.mark.parametrize("template", FORMATS, ids=lambda each: each if len(each) < 30 else each.split()[-3][:20])
def test_the_format_is_learned_from_the_models_own_template(template: str, tokenizer: Any) -> None:
    file = TEMPLATES / f"{template[:40]}.jinja"
    written = file.read_text() if "{" not in template else template
    assert learned(written, tokenizer) == FORMATS[template]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("gemma3", "has no place for tools"),
        ("phi3", "has no place for tools"),
        ("llama3", "has no place for tools"),
        ("gemma4", "in a way that this server does not know"),
        ("gptoss", "in a way that this server does not know"),
        ("glm4moe", "in a way that this server does not know"),
        ("lfm2", "in a way that this server does not know"),
    ],
)
def test_a_model_without_tools_or_with_an_unknown_format_says_which(template: str, reason: str, tokenizer: Any) -> None:
    found = learned((TEMPLATES / f"{template}.jinja").read_text(), tokenizer)
    assert isinstance(found, NoTools)
    assert reason in found.reason


NAMED = FORMATS[MISTRAL_2025]
XML = FORMATS["qwen3_6"]
OSLO = ("weather", {"city": "Oslo", "days": 3})
BERGEN = ("weather", {"city": "Bergen"})
ANSWERS: dict[str, tuple[ToolFormat, str, str, list[tuple[str, Any]]]] = {
    "no call": (HERMES, "It rains. <tool", "It rains. <tool", []),
    "a call": (
        HERMES,
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>',
        "",
        [OSLO],
    ),
    "text and two calls": (
        HERMES,
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bergen"}}\n</tool_call>\n',
        "Let me see.",
        [OSLO, BERGEN],
    ),
    "a call without its end": (HERMES, '<tool_call>{"name": "weather", "arguments": {"city": "Bergen"}}', "", [BERGEN]),
    "an end within a string": (
        HERMES,
        '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>',
        "",
        [("f", {"a": "</tool_call>"})],
    ),
    "a call cut short": (HERMES, 'So: <tool_call>\n{"name": "wea', 'So:<tool_call>\n{"name": "wea', []),
    "JSON that is no call": (HERMES, '<tool_call>{"a": 1}</tool_call>', '<tool_call>{"a": 1}</tool_call>', []),
    "parameters for arguments": (HERMES, '<tool_call>{"name": "f", "parameters": {}}</tool_call>', "", [("f", {})]),
    "llama": (LLAMA, '{"name": "weather", "parameters": {"city": "Bergen"}}', "", [BERGEN]),
    "llama, two": (
        LLAMA,
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        "",
        [("f", {}), ("g", {})],
    ),
    "llama, text": (LLAMA, ' It is {"name": "f"}', ' It is {"name": "f"}', []),
    "llama, JSON": (LLAMA, '{"answer": 42} is it', '{"answer": 42} is it', []),
    "mistral": (
        FORMATS[MISTRAL],
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo", "days": 3}, "id": "abcdefghi"}, '
        '{"name": "weather", "arguments": {"city": "Bergen"}}]',
        "",
        [OSLO, BERGEN],
    ),
    "mistral 2025": (
        NAMED,
        '[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 3}[TOOL_CALLS]weather[ARGS]{"city": "Bergen"}',
        "",
        [OSLO, BERGEN],
    ),
    "xml": (
        XML,
        "Well.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
        "Well.",
        [OSLO],
    ),
    "xml, a string like a number": (
        XML,
        "<tool_call><function=weather><parameter=city>7</parameter></function></tool_call>",
        "",
        [("weather", {"city": "7"})],
    ),
}
SCHEMAS = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    }
}


def read(written: ToolFormat, pieces: Sequence[str]) -> tuple[str, list[tuple[str, Any]]]:
    reader = CallReader(written, schemas=SCHEMAS)
    told = [*(reader.push(piece) for piece in pieces), reader.finish()]
    calls = [call for _, found in told for call in found]
    assert len({call.id for call in calls}) == len(calls)
    assert all(len(call.id) == 9 and call.id.isalnum() for call in calls)
    return "".join(text for text, _ in told), [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("answer", ANSWERS)
def test_calls_and_text_are_told_apart_in_whatever_pieces_they_come(answer: str) -> None:
    written, text, shown, calls = ANSWERS[answer]
    for size in (1, 2, 3, 7, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert read(written, pieces) == (shown, calls), size


@pytest.mark.properties
@given(st.text(alphabet='<>tool_cal/ \n{}"[]:,', max_size=60), st.sampled_from([HERMES, LLAMA, NAMED, XML]))
def test_text_that_is_no_call_is_never_lost_but_for_space(text: str, written: ToolFormat) -> None:
    shown, calls = read(written, list(text))
    assert calls == []
    assert shown.split() == text.split() or "".join(shown.split()) == "".join(text.split())


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return Vocabulary(tokenizer, size=len(tokenizer))


def keeps(vocabulary: Vocabulary, tokenizer: Any, lark: str, text: str) -> bool:
    """Whether the grammar takes all of the text and lets it end there."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    grammar = vocabulary.of_lark(lark)
    return grammar.takes(ids)


def own(written: ToolFormat, tokenizer: Any) -> ToolFormat:
    """The format with the ids that this tokenizer has."""
    added = tokenizer.get_added_vocab()
    return ToolFormat(
        **{name: getattr(written, name) for name in ToolFormat.__dataclass_fields__ if name != "tokens"},
        tokens={token: added[token] for token in written.tokens},
    )


@pytest.mark.parametrize("answer", ["a call", "llama", "mistral", "mistral 2025", "xml"])
def test_a_forced_answer_is_a_call_of_the_models_format_with_arguments_of_the_schema(
    answer: str, vocabulary: Vocabulary, tokenizer: Any
) -> None:
    written, text, _, _ = ANSWERS[answer]
    written, text = own(written, tokenizer), text.removeprefix("Well.\n\n").replace(', "id": "abcdefghi"', "")
    lark = forced(written, SCHEMAS, most=4)
    assert keeps(vocabulary, tokenizer, lark, text)
    assert not keeps(vocabulary, tokenizer, lark, "It rains.")
    assert not keeps(vocabulary, tokenizer, lark, text.replace("city", "town"))
    assert not keeps(vocabulary, tokenizer, lark, text.replace("weather", "weathers"))
    strict = forced(written, SCHEMAS, most=4, text_too=True)
    assert keeps(vocabulary, tokenizer, strict, text)
    assert keeps(vocabulary, tokenizer, strict, "It rains.")
    assert not keeps(vocabulary, tokenizer, strict, text.replace("city", "town"))


def test_no_more_calls_than_asked_for(vocabulary: Vocabulary, tokenizer: Any) -> None:
    written = own(HERMES, tokenizer)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    for most, calls, right in ((1, 1, True), (1, 2, False), (2, 2, True), (2, 3, False)):
        lark = forced(written, SCHEMAS, most=most)
        assert keeps(vocabulary, tokenizer, lark, "\n".join([call] * calls)) is right
