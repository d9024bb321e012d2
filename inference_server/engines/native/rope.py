"""Rotary embeddings: every way of stretching them comes down to a frequency for each pair of dimensions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
