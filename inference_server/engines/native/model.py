"""One forward pass over a mixed batch: prompts and decoding requests share every matrix product."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engines.native.architecture import Architecture
from inference_server.engines.native.kv_cache import BLOCK, KVCache
from inference_server.engines.native.rope import Turning, Turns
from inference_server.engines.native.weights import Layer, Weights

MANY = 8
"""Requests that attend together from which on, on a CPU, products of all are quicker than torch's attention of each."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
}


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
    padded: Tensor | None = None
    """[requests·width]: which of the group's tokens stands at each place; None if nothing is padded."""
    real: Tensor | None = None
    """[end - start]: at which place each token stands."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes, group after group."""

    tokens: Tensor
    """[tokens] ids."""
    positions: Tensor
    """[tokens] positions in their requests."""
    slots: Tensor
    """[tokens] where their keys and values go in the cache."""
    rows: Tensor
    """[sequences] the tokens whose logits are wanted."""
    groups: tuple[Group, ...]
    variants: Tensor | None = None
    """[tokens] of the rotary embedding; None where all take the first."""
    mix: Tensor | None = None
    """[tokens, adapters] how strongly each counts; None where none does."""


class Model:
    """The network with its cache. Runs under ``torch.inference_mode``."""

    def __init__(self, of: Architecture, weights: Weights, cache: KVCache) -> None:
        self._of, self._weights, self._cache = of, weights, cache
        device, self._dtype = weights.embedding.device, weights.embedding.dtype
        heads = of.heads + 2 * of.kv_heads
        ropes = {False: of.rope, True: of.window_rope or of.rope}
        self._turning = {
            windowed: Turning(ropes[windowed], heads=heads, still=of.kv_heads, head_dim=of.head_dim, device=device)
            for windowed in {bool(window) and of.window_rope is not None for window in of.windows}
        }
        self._activation = ACTIVATIONS[of.activation]
        self._embedding_scale = torch.tensor(of.hidden**0.5).to(self._dtype).item() if of.gemma else 1.0
        self._many = math.inf if device.type != "cpu" else 1 if self._dtype == torch.float32 else MANY

    def forward(self, batch: Batch) -> Tensor:
        """Logits [sequences, vocabulary]; writes the keys and values of all tokens into the cache."""
        of, mix = self._of, batch.mix
        hidden = functional.embedding(batch.tokens, self._weights.embedding)
        if of.gemma:
            hidden = hidden * self._embedding_scale
        turns = {own: t.at(batch.positions, batch.variants, dtype=self._dtype) for own, t in self._turning.items()}
        seen = {
            window: [(self._mask(group, window), self._cache.pages(group.tables)) for group in batch.groups]
            for window in set(of.windows)
        }
        for index, layer in enumerate(self._weights.layers):
            window = of.windows[index]
            turn = turns[bool(window) and of.window_rope is not None]
            attended = self._attention(index, layer, layer.input_norm(hidden), batch, turn, seen[window])
            added = layer.output(attended, mix)
            hidden += layer.output_norm(added) if layer.output_norm else added
            gate, up = layer.gate_up(layer.mlp_norm(hidden), mix).chunk(2, dim=-1)
            added = layer.down(self._activation(gate).mul_(up), mix)
            hidden += layer.down_norm(added) if layer.down_norm else added
        last = hidden.index_select(0, batch.rows)
        return self._weights.head(self._weights.norm(last), None if mix is None else mix.index_select(0, batch.rows))

    def _attention(
        self, index: int, layer: Layer, x: Tensor, batch: Batch, turn: Turns, seen: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """``seen`` has the mask of each group, and where the pages of its requests lie."""
        of = self._of
        heads = layer.qkv(x, batch.mix).view(x.shape[0], -1, of.head_dim)
        if layer.q_norm and layer.k_norm:
            queries, keys, values = heads.split((of.heads, of.kv_heads, of.kv_heads), dim=1)
            heads = torch.cat((layer.q_norm(queries), layer.k_norm(keys), values), dim=1)
        heads = turn.apply(heads)
        self._cache.write(index, batch.slots, heads[:, of.heads :])
        queries = heads[:, : of.heads]
        parts = [
            self._attend(queries, group, mask, *self._cache.gather(index, pages))
            for group, (mask, pages) in zip(batch.groups, seen, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(self, queries: Tensor, group: Group, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A group's queries against their caches; the heads that share keys form one small matrix (GQA)."""
        of, (requests, width) = self._of, group.positions.shape
        own = queries[group.start : group.end]
        if group.padded is not None:
            own = own.index_select(0, group.padded)
        grouped = own.view(requests, width, of.kv_heads, -1, of.head_dim).permute(0, 2, 3, 1, 4)
        rows = grouped.reshape(requests, of.kv_heads, -1, of.head_dim)
        attend = _in_products if width == 1 and requests >= self._many else functional.scaled_dot_product_attention
        out = attend(rows, keys, values, attn_mask=mask, scale=of.scale)
        out = out.view(requests, of.kv_heads, -1, width, of.head_dim).permute(0, 3, 1, 2, 4)
        flat = out.reshape(requests * width, -1)
        return flat if group.real is None else flat.index_select(0, group.real)

    def _mask(self, group: Group, window: int) -> Tensor:
        """[requests, 1, queries, keys] additive: nothing after a query, and nothing further back than its window."""
        of, (requests, width) = self._of, group.positions.shape
        at, keys = group.positions[:, :, None], torch.arange(group.tables.shape[1] * BLOCK, device=group.tables.device)
        unseen = keys > at
        if window:
            unseen |= keys <= at - window
        mask = torch.zeros(unseen.shape, dtype=self._dtype, device=unseen.device).masked_fill_(unseen, -math.inf)
        tall = mask[:, None, None].expand(requests, 1, of.heads // of.kv_heads, width, -1)
        return tall.reshape(requests, 1, -1, unseen.shape[-1])


def _in_products(queries: Tensor, keys: Tensor, values: Tensor, *, attn_mask: Tensor, scale: float) -> Tensor:
    """Attention of one query a request, which rounds where torch's own does: scores and softmax are float32."""
    scores = torch.matmul(queries.float() * scale, keys.float().transpose(-1, -2)).add_(attn_mask)
    return torch.matmul(scores.softmax(dim=-1).to(values.dtype), values)
