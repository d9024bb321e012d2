"""One forward pass over a mixed batch: prompts and decoding requests share every matrix product."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engines.kernels import Kernels
from inference_server.engines.native.architecture import Architecture
from inference_server.engines.native.attention import Attention, Group
from inference_server.engines.native.kv_cache import KVCache
from inference_server.engines.native.turning import Turning, Turns
from inference_server.engines.native.weights import Layer, Weights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
}


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

    def __init__(self, of: Architecture, weights: Weights, cache: KVCache, kernels: Kernels | None = None) -> None:
        self._of, self._weights, self._cache, self._kernels = of, weights, cache, kernels
        device, self._dtype = weights.embedding.device, weights.embedding.dtype
        heads = of.heads + 2 * of.kv_heads
        ropes = {False: of.rope, True: of.window_rope or of.rope}
        self._turning = {
            windowed: Turning(
                ropes[windowed], heads=heads, still=of.kv_heads, head_dim=of.head_dim, device=device, spread=not kernels
            )
            for windowed in {bool(window) and of.window_rope is not None for window in of.windows}
        }
        self._gated = kernels.gated if kernels and of.activation == "silu" else self._gated_by_torch
        self._embedding_scale = torch.tensor(of.hidden**0.5).to(self._dtype).item() if of.gemma else 1.0

    def forward(self, batch: Batch) -> Tensor:
        """Logits [sequences, vocabulary]; writes the keys and values of all tokens into the cache."""
        of, mix = self._of, batch.mix
        hidden = functional.embedding(batch.tokens, self._weights.embedding)
        if of.gemma:
            hidden = hidden * self._embedding_scale
        turns = {own: t.at(batch.positions, batch.variants, dtype=self._dtype) for own, t in self._turning.items()}
        seen = {
            window: [
                Attention(g, self._cache, of, window=window, dtype=self._dtype, kernels=self._kernels)
                for g in batch.groups
            ]
            for window in set(of.windows)
        }
        added = torch.zeros_like(hidden)
        for index, layer in enumerate(self._weights.layers):
            window = of.windows[index]
            turn = turns[bool(window) and of.window_rope is not None]
            attended = self._attention(index, layer, layer.input_norm(hidden, added), batch, turn, seen[window])
            added = layer.output(attended, mix)
            added = layer.output_norm(added, None) if layer.output_norm else added
            added = layer.down(self._gated(layer.gate_up(layer.mlp_norm(hidden, added), mix)), mix)
            added = layer.down_norm(added, None) if layer.down_norm else added
        last = self._weights.norm(hidden.index_select(0, batch.rows), added.index_select(0, batch.rows))
        return self._weights.head(last, None if mix is None else mix.index_select(0, batch.rows))

    def _gated_by_torch(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return ACTIVATIONS[self._of.activation](gate).mul_(up)

    def _attention(
        self,
        index: int,
        layer: Layer,
        x: Tensor,
        batch: Batch,
        turns: Turns,
        attentions: list[Attention],
    ) -> Tensor:
        of = self._of
        heads = layer.qkv(x, batch.mix).view(x.shape[0], -1, of.head_dim)
        if layer.q_norm and layer.k_norm:
            queries, keys, values = heads.split((of.heads, of.kv_heads, of.kv_heads), dim=1)
            heads = torch.cat((layer.q_norm(queries, None), layer.k_norm(keys, None), values), dim=1)
        if self._kernels:
            self._kernels.turn_and_store(heads, turns.cosines, turns.sines, self._cache[index], batch.slots)
            queries = heads.narrow(1, 0, of.heads)
        else:
            queries, fresh = turns.apply(heads).split((of.heads, 2 * of.kv_heads), dim=1)
            self._cache.write(index, batch.slots, fresh)
        if len(attentions) == 1:
            return attentions[0](index, queries)
        own = queries.split([group.end - group.start for group in batch.groups])
        return torch.cat([attend(index, part) for attend, part in zip(attentions, own, strict=True)])
