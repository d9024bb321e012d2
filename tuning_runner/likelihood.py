"""How likely the learnt tokens are, with no more than one copy of the logits beside them."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

TILE = 1 << 21
"""Logits in float32 at once: 8 MB, which also stay near the processor."""


class _Unlikelihood(torch.autograd.Function):  # type: ignore[misc]  # torch has no types for it
    """Its gradient is known as soon as it is: so it is made at once, tile by tile, and nothing else is kept."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, tokens: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        gradient = torch.empty_like(logits)
        size = max(1, TILE // logits.shape[-1])
        for given, wanted, made in zip(
            logits.detach().split(size), tokens.split(size), gradient.split(size), strict=True
        ):
            tile = given.float()
            total += cross_entropy(tile, wanted, reduction="sum")
            likely = torch.softmax(tile, dim=-1)
            likely[torch.arange(len(wanted)), wanted] -= 1
            made.copy_(likely.mul_(share))
        ctx.save_for_backward(gradient)
        return total * share

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        if outer[0] != 1:  # which it is, unless a step is done in parts
            gradient = gradient * outer[0].to(gradient.dtype)
        return gradient, None, None


def unlikelihood(logits: torch.Tensor, tokens: torch.Tensor, *, share: torch.Tensor | float) -> torch.Tensor:
    """The sum of negative log-likelihoods times ``share``: logits [tokens, vocabulary], tokens [tokens] → a scalar.

    Differentiable by the logits, once.
    """
    found: torch.Tensor = _Unlikelihood.apply(logits, tokens, torch.as_tensor(share, dtype=torch.float32))
    return found
