"""Attention over several documents in one row, document by document: on a CPU the square of each, not of the row.

transformers' own way is one masked call for the whole row, which for four examples of a hundred tokens takes a quarter
of a training step (docs/reference/performance.md). On a GPU it stays: many small kernels cost more to launch there.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_document"
SHORT = 160
"""Tokens up to which matrix products are quicker than torch's flash kernel for the CPU, backward by 2 to 4 times."""


class _Short(torch.autograd.Function):  # type: ignore[misc]  # torch has no types for it
    """Attention in float32 that keeps its inputs alone for the backward pass, and computes the rest once more.

    torch's own in products keeps six matrices in float32, which is a third of what a step of training keeps at all.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        _, _, read = _reading(query, key, scaling)
        return (read @ value.float()).reshape(query.shape).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        query, key, value = ctx.saved_tensors
        asked, known, read = _reading(query, key, ctx.scaling)
        given = outer[0].float().reshape(asked.shape)
        by_read = given @ value.float().transpose(-1, -2)
        by_score = (by_read - (by_read * read).sum(-1, keepdim=True)).mul_(read)
        return (
            (by_score @ known).mul_(ctx.scaling).reshape(query.shape).to(query.dtype),
            (by_score.transpose(-1, -2) @ asked).to(key.dtype),
            (read.transpose(-1, -2) @ given).to(value.dtype),
            None,
        )


def _reading(query: torch.Tensor, key: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scaled queries, keys, and how much of each token every query reads; heads that share keys are rows of one matrix:
    [1, heads that have keys, heads that share them × tokens, head size or tokens]."""
    _, heads, tokens, size = query.shape
    apart = key.shape[1]
    asked = (query.float() * scaling).reshape(1, apart, heads // apart * tokens, size)
    known = key.float()
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    scores = (asked @ known.transpose(-1, -2)).view(1, heads, tokens, tokens).masked_fill_(later, -math.inf)
    return asked, known, scores.softmax(-1).view(1, apart, -1, tokens)


def by_document(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """[1, heads, tokens, head size] each → [1, tokens, heads, head size].

    ``cu_seq_lens_q``: where documents begin, and the end, as the batch has it. Without it, and where a window cuts what
    is read, the mask decides.
    """
    if cu_seq_lens_q is None or options.get("sliding_window"):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found
    options["is_causal"] = True
    parts = [
        _alone(module, query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], options)
        for a, b in pairwise(cu_seq_lens_q.tolist())
    ]
    return torch.cat(parts, dim=1), None


def _alone(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """One document: [1, tokens, heads, head size]."""
    short = query.shape[2] <= SHORT
    if short and not options.get("dropout"):
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        alone: torch.Tensor = _Short.apply(query, key, value, scaling)
        return alone.transpose(1, 2)
    kernels = [SDPBackend.MATH] if short else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels):
        found: torch.Tensor = sdpa_attention_forward(module, query, key, value, None, **options)[0]
    return found


def use(model: Any) -> None:
    """Lets a model read so, if it would take transformers' sdpa."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, by_document)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
