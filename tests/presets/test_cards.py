"""What cards compute with: from their compute capability alone, so that it is known without one."""

import pytest

from presets.cards import BFLOAT16_SINCE, OLDEST, Capability, capability, computed_in, outdated, too_old
from presets.catalog import load_catalog

CARDS = load_catalog().gpus
NVIDIA = {name: card for name, card in CARDS.items() if card.maker == "nvidia"}
BUILT_FOR = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
"""torch 2.15 as the package index has it."""


def of(name: str) -> Capability:
    major, minor = CARDS[name].compute_capability.split(".")
    return int(major), int(minor)


@pytest.mark.parametrize("name", NVIDIA)
def test_the_catalogue_and_the_runtime_agree_on_which_cards_have_bfloat16(name: str) -> None:
    assert CARDS[name].bfloat16 == (of(name) >= BFLOAT16_SINCE)


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
    assert computed_in(wanted, of(name), family=family) == computed


@pytest.mark.parametrize("card", [of("A10"), of("A100-80"), of("H100"), None])
def test_where_bfloat16_is_computed_it_is_taken(card: Capability | None) -> None:
    assert computed_in("bfloat16", card, family="phi3") == "bfloat16"


@pytest.mark.parametrize("name", NVIDIA)
def test_a_card_that_torch_has_no_code_for_is_told_apart(name: str) -> None:
    assert bool(too_old(of(name), BUILT_FOR)) == (of(name) < (7, 5))


def test_it_is_said_what_to_do_about_a_card_that_is_too_old() -> None:
    assert too_old((7, 0), ("sm_75", "sm_90a", "compute_120")) == (
        "the card's compute capability is 7.0, and torch here is built for 7.5 and newer: take an instanceType with"
        " newer cards, or an image with an older torch"
    )


@pytest.mark.parametrize("built_for", [(), ("gfx942", "gfx90a")], ids=["nothing is said", "cards of AMD"])
def test_nothing_is_said_of_what_is_not_known(built_for: tuple[str, ...]) -> None:
    assert too_old((7, 0), built_for) == ""


@pytest.mark.parametrize(
    ("written", "read"), [("7.5", (7, 5)), ("12.0", (12, 0)), ("gfx942", None), ("", None), ("7", None)]
)
def test_a_capability_is_read_as_it_is_written(written: str, read: Capability | None) -> None:
    assert capability(written) == read


def test_volta_and_what_came_before_it_are_outdated() -> None:
    old = {name for name in NVIDIA if outdated(of(name), oldest=OLDEST)}
    assert old == {"K80", "M60", "P40", "P100", "V100", "V100-32"}
    assert not outdated(None, oldest=OLDEST)
