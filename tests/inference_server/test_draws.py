"""Tokens of many rows at once are those of each row alone, and come as often as their probabilities say."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from inference_server.engines.draws import choose
from inference_server.engines.sampler import Chooser, Sampling

SAMPLINGS = {
    "all": {},
    "warm": {"temperature": 1.7},
    "cold": {"temperature": 0.2},
    "top k": {"top_k": 7},
    "top k of more than are looked at": {"top_k": 300},
    "top k of more than there are": {"top_k": 5000, "top_p": 0.4},
    "top p": {"top_p": 0.6},
    "top p of many": {"top_p": 0.999},
    "top p of none": {"top_p": 1e-9},
    "min p": {"min_p": 0.1},
    "min p of many": {"min_p": 1e-5},
    "top k, top p and min p": {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "temperature": 0.8},
    "typical p": {"typical_p": 0.7},
    "greedy": {"temperature": 0.0},
    "a bias": {"logit_bias": ((3, 9.0),)},
    "told": {"top_logprobs": 2},
}


def choosers(seed: int) -> list[Chooser]:
    return [Chooser(Sampling(**each, seed=seed + number)) for number, each in enumerate(SAMPLINGS.values())]  # type: ignore[arg-type]


def nothing(_: int) -> tuple[Sequence[int], Sequence[int]]:
    return [], []


def rows(vocabulary: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return 3 * torch.randn(len(SAMPLINGS), vocabulary)


@pytest.mark.parametrize("vocabulary", [97, 256, 2000])
def test_each_row_has_the_token_that_its_chooser_draws_alone(vocabulary: int) -> None:
    """By the same seed, however it is chosen, and step after step."""
    together, alone = choosers(5), choosers(5)
    seen = set()
    for step in range(20):
        logits = rows(vocabulary, seed=step)
        found = choose(logits, together, nothing)
        wanted = [c.choose(row.clone(), prompt=[], output=[]) for c, row in zip(alone, logits, strict=True)]
        assert dict(zip(SAMPLINGS, found, strict=True)) == dict(zip(SAMPLINGS, wanted, strict=True))
        seen.add(tuple(found))
    assert len(seen) == 20


def test_a_row_does_not_hang_on_those_beside_it() -> None:
    logits = rows(2000, seed=1).bfloat16()
    together = choose(logits, choosers(9), nothing)
    alone = [choose(logits[[number]], [c], nothing)[0] for number, c in enumerate(choosers(9))]
    backwards = choose(logits.flip(0), choosers(9)[::-1], nothing)[::-1]
    assert together == alone == backwards


@pytest.mark.parametrize("name", ["all", "warm", "top k", "top p", "min p", "top k, top p and min p"])
def test_tokens_come_as_often_as_their_probabilities_say(name: str) -> None:
    """Against probabilities worked out by sorting all of them: 20,000 draws, within five standard deviations."""
    torch.manual_seed(3)
    row, own, number = 2 * torch.randn(40), Sampling(**SAMPLINGS[name]), 20000  # type: ignore[arg-type]
    ordered, order = (row / own.temperature).softmax(0).sort(descending=True)
    keep = torch.ones(40, dtype=torch.bool)
    if own.top_k:
        keep[own.top_k :] = False
        ordered = ordered / ordered[: own.top_k].sum()
    if own.top_p < 1:
        keep &= ordered.cumsum(0) - ordered < own.top_p
    if own.min_p > 0:
        keep &= ordered >= own.min_p * ordered[0]
    wanted = torch.zeros(40).index_copy(0, order, ordered * keep)
    wanted = wanted / wanted.sum()
    chooser = Chooser(Sampling(**SAMPLINGS[name], seed=11))  # type: ignore[arg-type]
    found = torch.zeros(40)
    for _ in range(number // 1000):
        drawn = torch.tensor(choose(row.expand(1000, -1), [chooser] * 1000, nothing))
        found += drawn.bincount(minlength=40)
    assert (found[wanted == 0] == 0).all(), "what is cut off is never drawn"
    deviation = (number * wanted * (1 - wanted)).sqrt()
    assert ((found - number * wanted).abs() <= 5 * deviation + 1).all()


@pytest.mark.parametrize("name", ["all", "warm", "top k", "top p", "min p", "top k, top p and min p"])
def test_probabilities_that_are_asked_for_change_no_token(name: str) -> None:
    """They take a row out of those that are drawn together."""
    plain, told = (Chooser(Sampling(**SAMPLINGS[name], **more, seed=8)) for more in ({}, {"top_logprobs": 2}))  # type: ignore[arg-type]
    for step in range(20):
        row = rows(2000, seed=step)[:1]
        assert choose(row, [plain], nothing) == choose(row, [told], nothing)
        assert len(told.told) == 1
