"""The tokenizer that needs no transformers gives what transformers gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers import AutoTokenizer

from inference_server.engines.fast_tokenizer import FastTokenizer, compiled

pytestmark = pytest.mark.server

TEXTS = (
    "What is the capital of France?", "", " two  spaces ", "Zürich, 東京, 🙂 and \u200d\n\ttabs", "w1 w2 w30",
    "<|im_start|>user\nhi<|im_end|>", "isn't it ? yes , it 's .", "12345 + 678 = ?", "a" * 300,
)  # fmt: skip
TALKS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "user", "content": "a <b> & 'c'"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "?"},
    ],
)


@pytest.fixture(params=["smollm2", "tiny_model"])
def both(request: pytest.FixtureRequest) -> tuple[FastTokenizer, Any]:
    directory: Path = request.getfixturevalue(request.param)
    return FastTokenizer(directory), AutoTokenizer.from_pretrained(directory)


def test_ids_and_texts_are_the_same(both: tuple[FastTokenizer, Any]) -> None:
    ours, theirs = both
    for text in TEXTS:
        for special in (True, False):
            ids = ours(text, add_special_tokens=special)["input_ids"]
            assert ids == theirs(text, add_special_tokens=special)["input_ids"], text
        for options in ({}, {"skip_special_tokens": True}, {"clean_up_tokenization_spaces": True}):
            assert ours.decode(ids, **options) == theirs.decode(ids, **options), (text, options)


def test_special_tokens_are_the_same(both: tuple[FastTokenizer, Any]) -> None:
    ours, theirs = both
    assert set(ours.all_special_ids) == set(theirs.all_special_ids)
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.get_added_vocab() == theirs.get_added_vocab()


def test_conversations_are_the_same(both: tuple[FastTokenizer, Any]) -> None:
    ours, theirs = both
    for talk in TALKS:
        for reply in (True, False):
            wanted = theirs.apply_chat_template(talk, add_generation_prompt=reply, tokenize=False)
            assert ours.apply_chat_template(talk, add_generation_prompt=reply) == wanted


def test_what_templates_of_the_hub_use_is_there() -> None:
    template = """\
{%- set state = namespace(n=0) -%}
{%- for message in messages -%}
  {%- if loop.index > 2 %}{% break %}{% endif -%}
  {%- set state.n = state.n + 1 -%}
  {% generation %}{{ message | tojson }}{% endgeneration %}
{%- endfor -%}
{{ state.n }} {{ strftime_now('%Y') | length }} {{ tools is none }}"""
    messages = [{"content": "<é>"}] * 3
    assert compiled(template).render(messages=messages, tools=None) == '{"content": "<é>"}{"content": "<é>"}2 4 True'


def test_a_template_is_compiled_once_and_keeps_nothing_of_a_conversation() -> None:
    template = (
        "{% set n = namespace(last='') %}{% for m in messages %}{% set n.last = n.last ~ m %}{% endfor %}{{ n.last }}"
    )
    assert compiled(template) is compiled(template)
    assert [compiled(template).render(messages=messages) for messages in ("ab", "c", "")] == ["ab", "c", ""]


@pytest.mark.security
@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_reaches_nothing_but_what_it_is_given(attack: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        compiled(attack).render(messages=[])


def with_rules(settings: dict[str, Any]) -> None:
    settings["add_bos_token"] = True


def of_another_class(settings: dict[str, Any]) -> None:
    settings["tokenizer_class"] = "LlamaTokenizer"


@pytest.mark.parametrize("change", [with_rules, of_another_class])
def test_a_tokenizer_with_rules_of_its_own_is_left_to_transformers(
    change: Callable[[dict[str, Any]], None], tiny_model: Path, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    change(settings)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"rules outside tokenizer\.json"):
        FastTokenizer(tmp_path)
