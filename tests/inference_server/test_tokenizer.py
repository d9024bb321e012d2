"""Text to tokens and back for a real model: every character survives."""

import unicodedata
from pathlib import Path

import pytest
from transformers import AutoTokenizer

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
