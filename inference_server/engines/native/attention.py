"""How the requests of a step look at their caches: what is the same in all layers is made once a step."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engines.kernels import HEADS, Kernels
from inference_server.engines.native.architecture import Architecture
from inference_server.engines.native.kv_cache import BLOCK, KVCache

MANY = 8
"""Requests that decode together from which on, on a CPU, products of all are quicker than torch's attention of each."""


@dataclass(frozen=True, slots=True)
class Group:
    """Requests of a batch that attend in one call, padded to the longest of them."""

    start: int
    end: int
    """Their tokens are ``start`` to ``end`` of the batch."""
    positions: Tensor
    """[requests, width] of their tokens, padded with 0."""
    tables: Tensor
    """[requests, blocks], padded with block 0."""
    counts: Tensor
    """[requests] of their tokens."""
    padded: Tensor | None = None
    """[requests·width]: which of the group's tokens stands at each place; None if nothing is padded."""
    real: Tensor | None = None
    """[end - start]: at which place each token stands."""


class Attention:
    """One group's, in all layers of a step that have the same window (0 is none).

    The heads that share keys form one small matrix (GQA): [requests, kv_heads, heads that share · width, head_dim].
    """

    def __init__(
        self,
        group: Group,
        cache: KVCache,
        of: Architecture,
        *,
        window: int,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        self._of, self._group, self._cache, self._window = of, group, cache, window
        self._requests, self._width = group.positions.shape
        ours = kernels and of.head_dim in HEADS and (self._width == 1 or kernels.has_products)
        self._kernels = kernels if ours else None
        if self._kernels:
            self._ends = group.positions[:, 0] + 1
            self._seen: dict[str, Any] = {"window": window, "scale": of.scale}
        else:
            self._gather(dtype)

    def _gather(self, dtype: torch.dtype) -> None:
        """What attention over gathered pages needs."""
        of, group, keys = self._of, self._group, self._group.tables.shape[1] * BLOCK
        self._pages, unseen = self._cache.pages(group.tables), self._unseen(keys)
        many = 1 if dtype == torch.float32 else MANY
        self._products = self._width == 1 and self._requests >= many and unseen.device.type == "cpu"
        mask = torch.zeros(unseen.shape, dtype=torch.float32 if self._products else dtype, device=unseen.device)
        mask = mask.masked_fill_(unseen, -math.inf)[:, None, None]
        if self._products:
            self._mask = mask.expand(-1, of.kv_heads, -1, -1, -1).reshape(-1, 1, keys)
            self._shape: tuple[int, ...] = (2, self._requests * of.kv_heads, keys, of.head_dim)
        else:
            shared = mask.expand(-1, 1, of.heads // of.kv_heads, -1, -1)
            self._mask = shared.reshape(self._requests, 1, -1, keys)
            self._shape = (2, self._requests, of.kv_heads, keys, of.head_dim)

    def __call__(self, layer: int, queries: Tensor) -> Tensor:
        """What the group's tokens see: [tokens, heads·head_dim], for ``queries`` [tokens, heads, head_dim]."""
        if self._kernels:
            pages, seen = (self._cache[layer], self._group.tables, self._ends), self._seen
            if self._width == 1:
                return self._kernels.attend(queries, *pages, **seen)
            return self._kernels.attend_many(queries, *pages, self._group.counts, **seen)
        keys, values = self._cache.gather(layer, self._pages).view(self._shape).unbind()
        if self._products:
            return self._in_products(queries, keys, values)
        return self._by_torch(queries, keys, values)

    def _in_products(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Of one query a request, rounding where torch's own does: scores and softmax are float32."""
        rows = queries.float().reshape(keys.shape[0], -1, self._of.head_dim)
        scores = torch.baddbmm(self._mask, rows, keys.float().transpose(1, 2), alpha=self._of.scale)
        return torch.bmm(scores.softmax(-1).to(values.dtype), values).view(self._requests, -1)

    def _by_torch(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Of any number of queries a request, each padded to the longest."""
        of, group = self._of, self._group
        if group.padded is not None:
            queries = queries.index_select(0, group.padded)
        grouped = queries.view(self._requests, self._width, of.kv_heads, -1, of.head_dim).permute(0, 2, 3, 1, 4)
        rows = grouped.reshape(self._requests, of.kv_heads, -1, of.head_dim)
        out = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=self._mask, scale=of.scale)
        out = out.view(self._requests, of.kv_heads, -1, self._width, of.head_dim).permute(0, 3, 1, 2, 4)
        flat = out.reshape(self._requests * self._width, -1)
        return flat if group.real is None else flat.index_select(0, group.real)

    def _unseen(self, keys: int) -> Tensor:
        """[requests, width, keys]: what is after a query, or further back than its window."""
        at, window = self._group.positions[:, :, None], self._window
        place = torch.arange(keys, device=at.device)
        unseen = place > at
        if window:
            unseen |= place <= at - window
        return unseen
