"""Text to tokens and back for a real model: every character survives."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from inference_server.engines.engine import NoSuchVariable
from inference_server.engines.fast_tokenizer import FastTokenizer
from inference_server.engines.tokenizer import HuggingFaceTokenizer

pytestmark = pytest.mark.server

TEXTS = {
    "plain": "The quick brown fox.",
    "digits": "1234567890 3.14159",
    "spaces": "  two  and\tthree\n\n\nlines ",
    "emoji with joiners": "👩‍👩‍👧‍👦 🏳️‍🌈",
    "decomposed": unicodedata.normalize("NFD", "Ångström café"),
    "right to left": "שלום עולם \u202e مرحبا",
    "outside the plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
    "NUL": "a\0b",
}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(AutoTokenizer.from_pretrained(smollm2), vocabulary_size=49152)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_encoded_is_decoded(tokenizer: HuggingFaceTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_conversation_is_written_as_the_model_learned_it(tokenizer: HuggingFaceTokenizer) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    im_start, im_end = 1, 2
    newline = tokenizer.encode("\n")
    assert tokenizer.encode_chat(turns) == [
        im_start, *tokenizer.encode("system\nBe brief."), im_end, *newline,
        im_start, *tokenizer.encode("user\nHi"), im_end, *newline,
        im_start, *tokenizer.encode("assistant\n"),
    ]  # fmt: skip


ASKS = """\
{{ messages[0].role }}{% if enable_thinking is defined %} {{ enable_thinking }}{% endif -%}
{% if false %}{{ bos_token }}{{ tokenize }}{{ raise_exception("never") }}{% endif %}"""


@pytest.mark.parametrize("read", [AutoTokenizer.from_pretrained, FastTokenizer])
def test_a_template_is_given_its_own_variables_and_no_others(read: Callable[[Path], Any], smollm2: Path) -> None:
    made = read(smollm2)
    made.chat_template = ASKS
    tokenizer = HuggingFaceTokenizer(made, vocabulary_size=49152)
    turns = [{"role": "user", "content": "Hi"}]
    assert tokenizer.decode(tokenizer.encode_chat(turns)) == "user"
    assert tokenizer.decode(tokenizer.encode_chat(turns, variables={"enable_thinking": False})) == "user False"
    for name in ("thinking", "messages", "tokenize", "bos_token", "raise_exception", "chat_template"):
        with pytest.raises(NoSuchVariable, match=f"knows no '{name}'"):
            tokenizer.encode_chat(turns, variables={"enable_thinking": True, name: True})


def test_the_developer_is_the_system_to_a_template_that_knows_no_developer(smollm2: Path) -> None:
    made = FastTokenizer(smollm2)
    turns = [{"role": "developer", "content": "Hi"}]
    for template, role in ((ASKS, "system"), (f"{ASKS}{{# developer #}}", "developer")):
        made.chat_template = template
        tokenizer = HuggingFaceTokenizer(made, vocabulary_size=49152)
        assert tokenizer.decode(tokenizer.encode_chat(turns)) == role
