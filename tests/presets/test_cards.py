"""What cards compute with: from their compute capability alone, so that it is known without one."""

import pytest

from presets.cards import BFLOAT16_SINCE, Capability, computed_in, too_old
from presets.catalog import load_catalog

CARDS = load_catalog().gpus
NVIDIA = {name: card for name, card in CARDS.items() if card.maker == "nvidia"}
BUILT_FOR = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
"""torch 2.15 as the package index has it."""


def capability(name: str) -> Capability:
    major, minor = CARDS[name].compute_capability.split(".")
    return int(major), int(minor)


@pytest.mark.parametrize("name", NVIDIA)
def test_the_catalogue_and_the_runtime_agree_on_which_cards_have_bfloat16(name: str) -> None:
    assert CARDS[name].bfloat16 == (capability(name) >= BFLOAT16_SINCE)


@pytest.mark.parametrize("name", ["V100", "T4"])
@pytest.mark.parametrize(
    ("wanted", "family", "computed"),
    [
        ("bfloat16", "phi3", "float16"),
        ("float16", "phi3", "float16"),
        ("float32", "phi3", "float32"),
        ("auto", "phi3", "auto"),
        ("bfloat16", "gemma2", "bfloat16"),  # its activations leave float16's range
    ],
)
def test_a_card_without_bfloat16_computes_in_float16(name: str, wanted: str, family: str, computed: str) -> None:
    assert computed_in(wanted, capability(name), family=family) == computed


@pytest.mark.parametrize("card", [capability("A10"), capability("A100-80"), capability("H100"), None])
def test_where_bfloat16_is_computed_it_is_taken(card: Capability | None) -> None:
    assert computed_in("bfloat16", card, family="phi3") == "bfloat16"


@pytest.mark.parametrize("name", NVIDIA)
def test_a_card_that_torch_has_no_code_for_is_told_apart(name: str) -> None:
    assert bool(too_old(capability(name), BUILT_FOR)) == (capability(name) < (7, 5))


def test_it_is_said_what_to_do_about_a_card_that_is_too_old() -> None:
    assert too_old((7, 0), ("sm_75", "sm_90a", "compute_120")) == (
        "the card's compute capability is 7.0, and torch here is built for 7.5 and newer: take an instanceType with"
        " newer cards, or an image with an older torch"
    )


@pytest.mark.parametrize("built_for", [(), ("gfx942", "gfx90a")], ids=["nothing is said", "cards of AMD"])
def test_nothing_is_said_of_what_is_not_known(built_for: tuple[str, ...]) -> None:
    assert too_old((7, 0), built_for) == ""
