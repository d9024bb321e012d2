"""Rotary embeddings: every way of stretching them comes down to a frequency for each pair of dimensions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class UnknownRope(Exception):
    """A rotary embedding that is not implemented; the message names it."""


@dataclass(frozen=True, slots=True)
class Rope:
    """``variants`` has the frequencies of each pair; with LongRoPE there are two, for short texts and for long ones."""

    variants: tuple[tuple[float, ...], ...]
    magnitude: float = 1.0
    """What cosines and sines are multiplied by."""
    short: int = 0
    """Tokens of the longest text that takes the first variant; 0 means that there is one."""

    @property
    def dimensions(self) -> int:
        """How many of a head's dimensions turn."""
        return 2 * len(self.variants[0])

    def variant(self, tokens: int) -> int:
        """Which one a text takes that may grow to so many tokens."""
        return int(bool(self.short) and tokens > self.short)


def read(parameters: Mapping[str, Any], *, head_dim: int, context: int) -> Rope:
    """From ``rope_parameters`` of config.json, with the formulas of transformers. Raises UnknownRope."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    turned = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    theta = float(parameters.get("rope_theta", 10000.0))
    plain = tuple(theta ** (-2 * pair / turned) for pair in range(turned // 2))
    if kind == "default":
        return Rope((plain,))
    if kind == "linear":
        return Rope((tuple(each / parameters["factor"] for each in plain),))
    if kind == "llama3":
        return Rope((tuple(_llama3(each, parameters) for each in plain),))
    if kind in ("longrope", "su"):
        return _longrope(plain, parameters, context=context)
    raise UnknownRope(f"rotary embedding of type {kind!r}")


def _llama3(frequency: float, parameters: Mapping[str, Any]) -> float:
    """Long wavelengths are stretched by ``factor``, short ones kept, those between interpolated."""
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    turns = float(parameters["original_max_position_embeddings"]) * frequency / (2 * math.pi)
    smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
    return (1 - smooth) * frequency / float(parameters["factor"]) + smooth * frequency


def _longrope(plain: tuple[float, ...], parameters: Mapping[str, Any], *, context: int) -> Rope:
    """A divisor for each frequency (Ding 2024), one list for texts of the original length and one for longer ones."""
    original = parameters["original_max_position_embeddings"]
    factor = parameters.get("factor") or context / original
    magnitude = parameters.get("attention_factor")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    divisors = (parameters["short_factor"], parameters["long_factor"])
    variants = tuple(tuple(f / d for f, d in zip(plain, each, strict=True)) for each in divisors)
    return Rope(variants, magnitude=magnitude, short=original)


@dataclass(frozen=True, slots=True)
class Turns:
    """Cosines and sines of a batch."""

    cosines: Tensor
    sines: Tensor
    """Both [tokens, pairs]."""
    spread: tuple[Tensor, Tensor] | None
    """Cosines and signed sines for every head, queries then keys then values, and each of its dimensions: [tokens,
    heads, head_dim]. Values stay as they are. Only for ``apply``."""
    partners: Tensor | None
    """[head_dim]: which dimension each one turns with; None if it is always the one half a head away."""

    def apply(self, x: Tensor) -> Tensor:
        """x [tokens, heads, head_dim], turned. Raises ValueError without ``spread``."""
        if self.spread is None:
            raise ValueError("these turns are not spread")
        cos, sin = self.spread
        partner = x.roll(x.shape[-1] // 2, -1) if self.partners is None else x.index_select(-1, self.partners)
        return (x * cos).add_(partner.mul_(sin))


class Turning:
    """A rope on a device, for heads of which the last ``still`` do not turn; ``spread`` is for Turns.apply."""

    def __init__(
        self, rope: Rope, *, heads: int, still: int, head_dim: int, device: torch.device, spread: bool
    ) -> None:
        self._frequencies = torch.tensor(rope.variants, dtype=torch.float32, device=device)
        self._magnitude, self._heads, self._still, self._head_dim = rope.magnitude, heads, still, head_dim
        half, turned = rope.dimensions // 2, rope.dimensions
        order = [*range(half, turned), *range(half), *range(turned, head_dim)]
        self._partners = None if turned == head_dim else torch.tensor(order, device=device)
        self._spread = spread

    def at(self, positions: Tensor, variants: Tensor | None, *, dtype: torch.dtype) -> Turns:
        """For tokens at ``positions`` [tokens]; computed in float32 and rounded, as transformers does."""
        frequencies = self._frequencies[0] if variants is None else self._frequencies[variants]
        angles = positions[:, None].float() * frequencies
        cosines, sines = (angles.cos() * self._magnitude).to(dtype), (angles.sin() * self._magnitude).to(dtype)
        spread = self._for_all(cosines[:, None], sines[:, None]) if self._spread else None
        return Turns(cosines, sines, spread, self._partners)

    def _for_all(self, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        shape, pairs = (cosines.shape[0], self._heads, self._head_dim), cosines.shape[2]
        cos, sin, turning = cosines.new_ones(shape), sines.new_zeros(shape), self._heads - self._still
        cos[:, :turning, :pairs] = cos[:, :turning, pairs : 2 * pairs] = cosines
        sin[:, :turning, :pairs], sin[:, :turning, pairs : 2 * pairs] = -sines, sines
        return cos, sin
