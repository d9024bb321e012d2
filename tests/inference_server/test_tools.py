"""Tool calls: the format learned from the models' own chat templates, read out of text in any pieces, and forced."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import pytest
import trl
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference_server.engines.grammar import Vocabulary
from inference_server.openai_tools import ToolUse
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
    "<arg_key>": 8,
    "</arg_key>": 9,
    "<arg_value>": 10,
    "</arg_value>": 11,
    "<|tool_call_start|>": 12,
    "<|tool_call_end|>": 13,
    "<|start|>": 14,
    "<|channel|>": 15,
    "<|constrain|>": 16,
    "<|message|>": 17,
    "<|end|>": 18,
    "<|return|>": 19,
}


def learned(
    template: str, tokenizer: Any, *, added: Mapping[str, int] = MappingProxyType(ADDED)
) -> ToolFormat | NoTools:
    tokenizer.chat_template = template

    def render(messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]], reply: bool) -> str | None:
        try:
            text: str = tokenizer.apply_chat_template(
                list(messages), tools=list(tools), add_generation_prompt=reply, tokenize=False
            )
        except (jinja2.TemplateError, TypeError):
            return None
        return text

    return learn(render, added=added)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    made = AutoTokenizer.from_pretrained(smollm2)
    made.add_tokens(["<tool_call>", "</tool_call>", *PAIRS])
    made.add_tokens(["[TOOL_CALLS]", "[ARGS]", *LFM2.tokens, *HARMONY], special_tokens=True)
    return made


QWEN = {"<tool_call>": 1, "</tool_call>": 2}
HERMES = ToolFormat("json", "<tool_call>\n", "\n</tool_call>", between="\n", tokens=QWEN)
LLAMA = ToolFormat("json", "", "", keys=("name", "parameters"))
PAIRS = ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
GLM = ToolFormat(
    "pairs", "<tool_call>", "</tool_call>", middle="\n", between="\n", tokens={**QWEN, **{p: ADDED[p] for p in PAIRS}}
)
LFM2 = ToolFormat(
    "python",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    listed=True,
    tokens={"<|tool_call_start|>": 12, "<|tool_call_end|>": 13},
)
GEMMA3 = ToolFormat("python", "", "", listed=True, by_hand="everything")
HARMONY = ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
GPT_OSS = ToolFormat("channels", "", "", tokens={token: ADDED[token] for token in HARMONY})
GLM_2026 = """\
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for m in messages -%}
<|{{ m.role }}|>{{ m.content }}
{%- for c in m.tool_calls %}<tool_call>{{ c.function.name }}
{%- for key, value in c.function.arguments.items() -%}
<arg_key>{{ key }}</arg_key><arg_value>{{ value if value is string else value | tojson }}</arg_value>
{%- endfor %}</tool_call>{% endfor -%}
{%- endfor -%}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
"""Without line breaks, as GLM 4.7 has it."""
LLAMA_4 = """\
{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for m in messages -%}
<|{{ m.role }}|>{{ m.content }}
{%- if m.tool_calls %}[{% for c in m.tool_calls %}{{ c.function.name }}(
{%- for key, value in c.function.arguments.items() %}{{ key }}={{ value | tojson }}
{{- ", " if not loop.last }}{% endfor -%}
){{ ", " if not loop.last }}{% endfor %}]{% endif -%}
<|eot|>
{%- endfor -%}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
"""Calls as in Python, without a mark before them, as vLLM's template for Llama 4 has it."""
FORMATS = {
    "qwen2_5": HERMES,
    "qwen3": HERMES,
    "qwen3_vl": HERMES,
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "qwen3_6": ToolFormat("xml", "<tool_call>\n", "\n</tool_call>", between="\n", tokens=QWEN),
    "nemotron_3_nano": ToolFormat("xml", "<tool_call>\n", "\n</tool_call>\n", between="\n", tokens=QWEN),
    "glm4moe": GLM,
    GLM_2026: replace(GLM, middle="", between=""),
    "lfm2": replace(LFM2, by_hand="calls"),
    "lfm2_v2": LFM2,
    "lfm2_2_5": LFM2,
    LLAMA_4: ToolFormat("python", "", "", listed=True),
    "gemma3": GEMMA3,
    "gptoss": GPT_OSS,
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
        ("gemma", "has no place for tools"),
        ("phi3", "has no place for tools"),
        ("llama3", "has no place for tools"),
        ("gemma4", "in a way that this server does not know"),
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
FOUND = {"query": 'it\'s "so"', "tags": ["a", None], "exact": True, "least": -0.5, "more": {"k": [1, {}]}}
ANSWERS |= {
    "pairs": (
        GLM,
        "Well.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bergen</arg_value>\n"
        "</tool_call>",
        "Well.",
        [OSLO, BERGEN],
    ),
    "pairs without space": (
        replace(GLM, middle="", between=""),
        "<tool_call>weather<arg_key>city</arg_key><arg_value></tool_call> 7</arg_value></tool_call>",
        "",
        [("weather", {"city": "</tool_call> 7"})],
    ),
    "pairs, none": (GLM, "<tool_call>now\n</tool_call>", "", [("now", {})]),
    "pairs that are none": (GLM, "<tool_call>is a mark", "<tool_call>is a mark", []),
    "pairs cut short": (GLM, "<tool_call>f<arg_key>a</arg_key><arg_v", "<tool_call>f<arg_key>a</arg_key><arg_v", []),
    "python": (
        LFM2,
        "So:\n<|tool_call_start|>[weather(city='Oslo', days=3), weather(city=\"Bergen\")]<|tool_call_end|> Wait.",
        "So: Wait.",
        [OSLO, BERGEN],
    ),
    "python, values": (
        LFM2,
        '<|tool_call_start|>[a.b-c(query=\'it\\\'s "so"\', tags=["a", None], exact=true, least=-.5, '
        "more={'k': (1, {})},)]<|tool_call_end|>",
        "",
        [("a.b-c", FOUND)],
    ),
    "python, by place": (LFM2, '<|tool_call_start|>[weather("Oslo", 3)]<|tool_call_end|>', "", [OSLO]),
    "python, half a character": (
        LFM2,
        '<|tool_call_start|>[weather(city="\\ud83d\\ude00 \\ud83d")]<|tool_call_end|>',
        "",
        [("weather", {"city": "\U0001f600 \ufffd"})],
    ),
    "python without its end": (LFM2, "<|tool_call_start|>[weather(city='Bergen')]", "", [BERGEN]),
    "python that runs something": (
        LFM2,
        "<|tool_call_start|>[f(a=open('x'))]<|tool_call_end|>",
        "<|tool_call_start|>[f(a=open('x'))]<|tool_call_end|>",
        [],
    ),
    "gemma": (GEMMA3, '[weather(city="Oslo", days=3), weather(city="Bergen")]\n', "", [OSLO, BERGEN]),
    "gemma in a fence": (GEMMA3, '```tool_code\n[weather(city="Bergen")]\n```', "", [BERGEN]),
    "gemma, another list": (GEMMA3, "[1, 2] is it", "[1, 2] is it", []),
    "gemma, a list of unknown calls": (GEMMA3, "[f(x), g(x)]", "[f(x), g(x)]", []),
    "gemma, a program": (GEMMA3, "```python\nprint(1)\n```\nSo.", "```python\nprint(1)\n```\nSo.", []),
    "gemma, text": (GEMMA3, "`ls` and [weather(city=1)]", "`ls` and [weather(city=1)]", []),
    "channels": (
        GPT_OSS,
        "<|channel|>analysis<|message|>I need it.<|end|><|start|>assistant"
        "<|channel|>commentary<|message|>Let me see.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
        '{"city": "Oslo", "days": 3}<|call|>',
        "Let me see.",
        [OSLO],
    ),
    "channels, the function first": (
        GPT_OSS,
        ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Bergen"}<|call|>',
        "",
        [BERGEN],
    ),
    "channels, no call": (
        GPT_OSS,
        "<|channel|>analysis<|message|>Easy: 2 < 3.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It <|rains.<|return|>",
        "It <|rains.",
        [],
    ),
    "channels, cut in a thought": (GPT_OSS, "<|channel|>analysis<|message|>Well", "", []),
    "channels, cut in a call": (
        GPT_OSS,
        '<|channel|>commentary to=functions.weather<|message|>{"ci',
        '{"ci',
        [],
    ),
    "channels, a call without its end": (
        GPT_OSS,
        '<|channel|>commentary to=functions.weather<|message|>{"city": "Bergen"}',
        "",
        [BERGEN],
    ),
    "channels, plain text": (GPT_OSS, "It rains.", "It rains.", []),
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
    reader = ToolUse(written, (), SCHEMAS, most=16).reader()
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


ROLES = """\
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m.tools }}<|end|>{% endfor -%}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""
TOLD = "{{ tools | tojson }}" + ROLES


@pytest.mark.parametrize(
    ("template", "tokens", "found"),
    [
        (TOLD, ["<|tool_call|>"], ToolFormat("json", "<|tool_call|>", "", listed=True, by_hand="calls")),
        (TOLD, list(QWEN), replace(HERMES, by_hand="calls")),
        (TOLD, list(LFM2.tokens), replace(LFM2, by_hand="calls")),
        (
            ROLES,
            ["<|tool_call|>", "<|/tool_call|>"],
            ToolFormat("json", "<|tool_call|>", "<|/tool_call|>", listed=True, by_hand="system"),
        ),
    ],
    ids=["as Granite 3", "as SmolLM 3", "as LFM2", "as Phi 4 mini, which looks for tools in the system's message"],
)
def test_of_a_template_that_leaves_calls_out_the_models_tokens_tell_the_format(
    template: str, tokens: list[str], found: ToolFormat, tokenizer: Any
) -> None:
    numbered = {token: number for number, token in enumerate(tokens)}
    assert learned(template, tokenizer, added=numbered) == replace(found, tokens=numbered)
    assert isinstance(learned(template, tokenizer, added={}), NoTools)


MARKLESS = [LLAMA, GEMMA3]


@pytest.mark.properties
@example("[]", LLAMA)
@given(
    st.text(alphabet='<>tool_cal/ \n{}"[]:,', max_size=60), st.sampled_from([HERMES, NAMED, XML, *MARKLESS, GLM, LFM2])
)
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


FORCED: dict[str, tuple[ToolFormat, str, str, list[tuple[str, Any]]]] = {
    "pairs 2026": (
        replace(GLM, middle="", between=""),
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>",
        "",
        [],
    ),
    "python": (
        LFM2,
        '<|tool_call_start|>[weather(city="Oslo", days=3), weather(city="Bergen")]<|tool_call_end|>',
        "",
        [],
    ),
    "gemma": (GEMMA3, '[weather(city="Oslo", days=3), weather(city="Bergen")]', "", []),
}


def own(written: ToolFormat, tokenizer: Any) -> ToolFormat:
    """The format with the ids that this tokenizer has."""
    added = tokenizer.get_added_vocab()
    return replace(written, tokens={token: added[token] for token in written.tokens})


@pytest.mark.parametrize(
    "answer",
    ["a call", "llama", "mistral", "mistral 2025", "xml", "pairs", "pairs 2026", "python", "gemma", "channels"],
)
def test_a_forced_answer_is_a_call_of_the_models_format_with_arguments_of_the_schema(
    answer: str, vocabulary: Vocabulary, tokenizer: Any
) -> None:
    written, text, _, _ = (ANSWERS | FORCED)[answer]
    written, text = own(written, tokenizer), text.removeprefix("Well.\n").lstrip().replace(', "id": "abcdefghi"', "")
    lark = forced(written, SCHEMAS, most=4)
    assert keeps(vocabulary, tokenizer, lark, text)
    assert not keeps(vocabulary, tokenizer, lark, "It rains.")
    assert not keeps(vocabulary, tokenizer, lark, text.replace("city", "town"))
    assert not keeps(vocabulary, tokenizer, lark, text.replace("weather", "weathers"))
    strict = forced(written, SCHEMAS, most=4, text_too=True)
    assert keeps(vocabulary, tokenizer, strict, text)
    said = "<|channel|>final<|message|>It rains." if answer == "channels" else "It rains."
    assert keeps(vocabulary, tokenizer, strict, said)
    assert not keeps(vocabulary, tokenizer, strict, text.replace("city", "town"))


@pytest.mark.parametrize("written", [LFM2, GLM], ids=["python", "pairs"])
def test_what_is_not_required_may_be_left_out_and_every_value_keeps_its_schema(
    written: ToolFormat, vocabulary: Vocabulary, tokenizer: Any
) -> None:
    properties = {
        "a": {"type": "boolean"},
        "b": {"enum": ["x", "y"]},
        "c": {"type": "array", "items": {"type": "null"}},
    }
    lark = forced(own(written, tokenizer), {"f": {"type": "object", "properties": properties}}, most=1)

    def kept(**values: str) -> bool:
        if written is LFM2:
            body = ", ".join(f"{key}={value}" for key, value in values.items())
            return keeps(vocabulary, tokenizer, lark, f"<|tool_call_start|>[f({body})]<|tool_call_end|>")
        body = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in values.items())
        return keeps(vocabulary, tokenizer, lark, f"<tool_call>f\n{body}</tool_call>")

    true, x = ("True", '"x"') if written is LFM2 else ("true", "x")
    right = [
        {},
        {"a": true},
        {"b": x},
        {"c": "[null]"},
        {"a": true, "c": "[]"},
        {"a": true, "b": x, "c": "[null, null]"},
    ]
    wrong = [{"a": "1"}, {"b": x.replace("x", "z")}, {"c": "[1]"}, {"b": x, "a": true}, {"d": x}]
    assert [kept(**values) for values in right] == [True] * len(right)
    assert [kept(**values) for values in wrong] == [False] * len(wrong)


def test_no_more_calls_than_asked_for(vocabulary: Vocabulary, tokenizer: Any) -> None:
    written = own(HERMES, tokenizer)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    for most, calls, right in ((1, 1, True), (1, 2, False), (2, 2, True), (2, 3, False)):
        lark = forced(written, SCHEMAS, most=most)
        assert keeps(vocabulary, tokenizer, lark, "\n".join([call] * calls)) is right
