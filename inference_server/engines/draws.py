"""Tokens for all rows of a step at once, where their logits are: one copy of settings there, one of tokens back.

A row whose request wants more than a token (penalties, a grammar, probabilities) is chosen by its own Chooser, on the
processor. A Chooser draws in the same way, by one number between 0 and 1, so a seed says the same text either way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference_server.engines.sampler import LIKELIEST, Chooser

Text = tuple[Sequence[int], Sequence[int]]
"""The prompt, and what was answered."""
UNSURE = -1
"""In place of a token: the likeliest are not enough to know where a cut-off falls."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A row that is drawn together with others."""

    row: int
    chooser: Chooser
    chance: float


@dataclass(frozen=True, slots=True)
class _Settings:
    """Of rows, each a column [rows, 1] where their logits are."""

    rows: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    chance: Tensor
    most: int
    """The largest top-k."""

    @classmethod
    def of(cls, drawn: Sequence[_Drawn], device: torch.device) -> "_Settings":
        table = [
            [d.row, s.temperature, s.top_k, s.top_p, s.min_p, d.chance] for d in drawn for s in [d.chooser.sampling]
        ]
        host = torch.tensor(table, dtype=torch.float64)
        host = torch.empty_like(host, pin_memory=True).copy_(host) if device.type == "cuda" else host
        rows, temperature, top_k, top_p, min_p, chance = host.to(device, non_blocking=True).split(1, dim=1)
        most = max(d.chooser.sampling.top_k for d in drawn)
        return cls(rows[:, 0].long(), temperature.float(), top_k, top_p.float(), min_p.float(), chance, most)


def choose(logits: Tensor, choosers: Sequence[Chooser], text: Callable[[int], Text]) -> list[int]:
    """A token for each row of ``logits`` [rows, vocabulary]; ``text`` says what there is of a row's so far."""
    likeliest = _likeliest(logits)
    drawn = [_Drawn(row, c, c.chance()) for row, c in enumerate(choosers) if _together(c, logits.shape[1])]
    for draw in (_of_all, _of_top_k, _of_likeliest):
        if some := [each for each in drawn if _way(each, logits.shape[1]) is draw]:
            settings = _Settings.of(some, logits.device)
            likeliest.index_copy_(0, settings.rows, draw(logits.index_select(0, settings.rows), settings))
    tokens: list[int] = likeliest.tolist()
    chances = {each.row: each.chance for each in drawn}
    alone = [row for row, c in enumerate(choosers) if not c.plain and (row not in chances or tokens[row] == UNSURE)]
    if alone:
        for row, own in zip(alone, logits[alone].cpu().float(), strict=True):
            prompt, output = text(row)
            tokens[row] = choosers[row].choose(own, prompt=prompt, output=output, chance=chances.get(row))
    return tokens


def _together(chooser: Chooser, vocabulary: int) -> bool:
    """Whether a row needs nothing but its logits and a number."""
    own = chooser.sampling
    few = own.top_k <= LIKELIEST or own.top_k >= vocabulary
    asked = own.bends_logits or own.top_logprobs is not None or chooser.grammar is not None
    return not own.greedy and not asked and own.typical_p == 1.0 and few


def _way(drawn: _Drawn, vocabulary: int) -> Callable[[Tensor, _Settings], Tensor]:
    own = drawn.chooser.sampling
    if 0 < own.top_k < vocabulary:
        return _of_top_k
    return _of_likeliest if own.top_p < 1.0 or own.min_p > 0.0 else _of_all


def _of_all(logits: Tensor, settings: _Settings) -> Tensor:
    probabilities = (logits.float() / settings.temperature).softmax(dim=1)
    return _placed(probabilities, settings)[:, 0]


def _of_top_k(logits: Tensor, settings: _Settings) -> Tensor:
    values, tokens = logits.float().topk(settings.most, dim=1)
    beyond = torch.arange(settings.most, device=values.device) >= settings.top_k
    values = (values / settings.temperature).masked_fill_(beyond, -torch.inf)
    kept = _kept(values, values.logsumexp(1, keepdim=True), settings)
    return tokens.gather(1, _placed(kept, settings))[:, 0]


def _of_likeliest(logits: Tensor, settings: _Settings) -> Tensor:
    """UNSURE where not one of the likeliest is cut off, and there are more."""
    scaled = logits.float() / settings.temperature
    values, tokens = scaled.topk(min(LIKELIEST, scaled.shape[1]), dim=1)
    kept = _kept(values, scaled.logsumexp(1, keepdim=True), settings)
    found = tokens.gather(1, _placed(kept, settings))[:, 0]
    if values.shape[1] == scaled.shape[1]:
        return found
    return torch.where(kept[:, -1] == 0, found, UNSURE)


def _kept(values: Tensor, total: Tensor, settings: _Settings) -> Tensor:
    """Probabilities of sorted ``values`` by top-p and min-p, 0 for those cut off, as ``sampler._cut`` has them."""
    probabilities = (values - total).exp_()
    keep = (probabilities.cumsum(dim=1) - probabilities < settings.top_p) | (settings.top_p >= 1.0)
    keep &= probabilities >= settings.min_p * probabilities[:, :1]
    keep[:, 0] = True
    return probabilities * keep


def _placed(probabilities: Tensor, settings: _Settings) -> Tensor:
    """[rows, 1]: the place at which the sum of what is before reaches each row's chance."""
    below = probabilities.cumsum(dim=1, dtype=torch.float64)
    place = torch.searchsorted(below, settings.chance * below[:, -1:], right=True)
    return place.clamp_(max=below.shape[1] - 1)


def _likeliest(logits: Tensor) -> Tensor:
    """Of each row. On a CPU by numpy, which takes a twentieth of what torch takes over bfloat16."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.float().numpy().argmax(-1))
