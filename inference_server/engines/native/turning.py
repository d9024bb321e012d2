"""Rotary embeddings at work: the cosines and sines of a batch, by which its queries and keys turn."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inference_server.engines.native.rope import Rope


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
