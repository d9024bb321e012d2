"""Attention over several documents in one row, document by document: on a CPU the square of each, not of the row.

transformers' own way is one masked call for the whole row, which for four examples of a hundred tokens takes a quarter
of a training step (docs/reference/performance.md). On a GPU it stays: many small kernels cost more to launch there.
"""

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
    kernels = [SDPBackend.MATH] if query.shape[2] <= SHORT else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels):
        found: torch.Tensor = sdpa_attention_forward(module, query, key, value, None, **options)[0]
    return found


def use(model: Any) -> None:
    """Lets a model read so, if it would take transformers' sdpa."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, by_document)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
