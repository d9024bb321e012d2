"""One forward pass over a mixed batch: prefill chunks and decodes share every matrix product."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engines.native.architecture import Architecture, Rope
from inference_server.engines.native.kv_cache import BLOCK, KVCache
from inference_server.engines.native.weights import Layer, Weights


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start`` to ``end`` of the batch are one request's prompt (or a part of it)."""

    start: int
    end: int
    table: Tensor
    """[1, blocks]"""
    length: int
    """Tokens of this request in the cache once the chunk is written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes. The first ``decodes`` tokens are one per decoding request; prefill chunks follow."""

    tokens: Tensor
    """[tokens] ids."""
    positions: Tensor
    """[tokens] positions in their requests."""
    slots: Tensor
    """[tokens] where their keys and values go in the cache."""
    rows: Tensor
    """[requests] the tokens whose logits are wanted."""
    decodes: int
    tables: Tensor | None
    """[decodes, blocks], padded with block 0."""
    lengths: Tensor | None
    """[decodes] tokens in the cache, this step's included."""
    chunks: tuple[Chunk, ...]


class Model:
    """The network with its cache. Runs under ``torch.inference_mode``."""

    def __init__(self, architecture: Architecture, weights: Weights, cache: KVCache) -> None:
        self._of, self._weights, self._cache = architecture, weights, cache
        device = weights.norm.device
        self._cos, self._sin = rope_tables(
            architecture.rope, head_dim=architecture.head_dim, tokens=architecture.context
        )
        self._cos, self._sin = self._cos.to(device), self._sin.to(device)
        self._working = weights.norm.dtype

    def forward(self, batch: Batch) -> Tensor:
        """Logits [requests, vocabulary] in float32; writes the keys and values of all tokens into the cache."""
        hidden = functional.embedding(batch.tokens, self._weights.embedding).to(self._working)
        cos, sin = self._cos[batch.positions][:, None], self._sin[batch.positions][:, None]
        mask = self._decode_mask(batch)
        for index, layer in enumerate(self._weights.layers):
            attended = self._attention(index, layer, self._norm(hidden, layer.input_norm), batch, cos, sin, mask)
            hidden = hidden + layer.output(attended)
            gate, up = layer.gate_up(self._norm(hidden, layer.post_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(functional.silu(gate) * up)
        return self._weights.head(self._norm(hidden[batch.rows], self._weights.norm)).float()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self._of.norm_eps)

    def _attention(
        self, index: int, layer: Layer, x: Tensor, batch: Batch, cos: Tensor, sin: Tensor, mask: Tensor | None
    ) -> Tensor:
        of, tokens = self._of, x.shape[0]
        mixed = layer.qkv(x).view(tokens, of.heads + 2 * of.kv_heads, of.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            queries, keys, values = mixed.split((of.heads, of.kv_heads, of.kv_heads), dim=1)
            turned = torch.cat((self._norm(queries, layer.q_norm), self._norm(keys, layer.k_norm)), dim=1)
        else:
            turned, values = mixed.split((of.heads + of.kv_heads, of.kv_heads), dim=1)
        turned = rotate(turned, cos, sin)
        queries, keys = turned.split((of.heads, of.kv_heads), dim=1)
        self._cache.write(index, batch.slots, keys, values)
        parts = [self._decode(index, queries[: batch.decodes], batch, mask)] if batch.decodes else []
        parts += [self._prefill(index, queries[chunk.start : chunk.end], chunk) for chunk in batch.chunks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, index: int, queries: Tensor, batch: Batch, mask: Tensor | None) -> Tensor:
        """One query a request against its whole cache; the heads of one KV head form one small query matrix (GQA)."""
        of, requests = self._of, queries.shape[0]
        keys, values = self._cache.gather(index, _present(batch.tables))
        grouped = queries.view(requests, of.kv_heads, -1, of.head_dim).transpose(0, 1)
        out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return out.transpose(0, 1).reshape(requests, -1)

    def _prefill(self, index: int, queries: Tensor, chunk: Chunk) -> Tensor:
        """A chunk against everything of its request so far, causally."""
        of, tokens = self._of, queries.shape[0]
        keys, values = (part[:, :, : chunk.length] for part in self._cache.gather(index, chunk.table))
        repeat = of.heads // of.kv_heads
        keys, values = (part[:, 0].repeat_interleave(repeat, dim=0)[None] for part in (keys, values))
        first = chunk.length == tokens
        out = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys,
            values,
            attn_mask=None if first else _causal_tail(tokens, chunk.length, queries.device),
            is_causal=first,
        )
        return out[0].transpose(0, 1).reshape(tokens, -1)

    def _decode_mask(self, batch: Batch) -> Tensor | None:
        """[1, decodes, 1, longest] additive: nothing past a request's own length."""
        if batch.lengths is None or batch.tables is None:
            return None
        from_start = torch.arange(batch.tables.shape[1] * BLOCK, device=batch.lengths.device)
        unseen = from_start[None] >= batch.lengths[:, None]
        return torch.zeros(unseen.shape, dtype=self._working, device=unseen.device).masked_fill_(unseen, -math.inf)[
            None, :, None
        ]


def rope_tables(rope: Rope, *, head_dim: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [tokens, head_dim] for the half-split layout, scaled as transformers does it."""
    frequencies = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2).double() / head_dim)
    if rope.original_context:
        frequencies = _llama3_scaled(frequencies, rope)
    angles = torch.outer(torch.arange(tokens).double(), frequencies).float()
    return torch.cat((angles.cos(), angles.cos()), dim=1), torch.cat((-angles.sin(), angles.sin()), dim=1)


def _llama3_scaled(frequencies: Tensor, rope: Rope) -> Tensor:
    """Long wavelengths are stretched by ``factor``, short ones kept, those between interpolated."""
    wavelengths = 2 * math.pi / frequencies
    smooth = (rope.original_context / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * frequencies / rope.factor + smooth * frequencies


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [tokens, heads, head_dim]; cos and sin are [tokens, 1, head_dim]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _causal_tail(tokens: int, length: int, device: torch.device) -> Tensor:
    """[tokens, length] of bool: the last ``tokens`` rows of the causal triangle over ``length``."""
    return torch.ones(tokens, length, dtype=torch.bool, device=device).tril(length - tokens)


def _present(tables: Tensor | None) -> Tensor:
    if tables is None:
        raise ValueError("a batch with decodes has block tables")
    return tables
