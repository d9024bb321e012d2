"""What a checkpoint's config.json says about the network, in one frozen value."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_server.engines.native import rope
from inference_server.engines.native.rope import Rope, UnknownRope

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text")
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
GEMMA_PATTERN = 6
"""In older configurations of Gemma 3, every sixth layer sees all."""


class Unsupported(Exception):
    """This engine cannot run the checkpoint; the message says which part of it."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder of the llama family. Sizes are counts of elements; ``context`` is in tokens."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int
    norm_eps: float
    windows: tuple[int, ...]
    """For each layer, how many of the last tokens a token sees, itself included; 0 is all."""
    rope: Rope
    window_rope: Rope | None
    """Of the layers with a window, where it is another one (Gemma 3)."""
    tied: bool
    qk_norm: bool
    """Queries and keys are normalised per head (Qwen 3, Gemma 3)."""
    activation: str
    scale: float
    """What scores are multiplied by before the softmax."""
    eos: tuple[int, ...]

    @property
    def gemma(self) -> bool:
        """Norms of 1 + weight, also after attention and MLP, and embeddings multiplied by the root of their size."""
        return self.family == "gemma3_text"

    @property
    def kv_values_per_token(self) -> int:
        """Elements of keys and values that one token adds to the cache, all layers together."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def read(directory: Path) -> Architecture:
    """Reads config.json and generation_config.json. Raises Unsupported, and KeyError for what is missing."""
    config = json.loads((directory / "config.json").read_text())
    family = config.get("model_type", "")
    _refuse_what_is_not_implemented(family, config)
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    full, windowed = _ropes(config, head_dim=head_dim)
    return Architecture(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        windows=_windows(family, config),
        rope=full,
        window_rope=windowed,
        tied=config.get("tie_word_embeddings", family == "gemma3_text"),
        qk_norm=family in ("qwen3", "gemma3_text"),
        activation=_activation(config),
        scale=(config.get("query_pre_attn_scalar") or head_dim) ** -0.5,
        eos=_eos(directory, config),
    )


def _refuse_what_is_not_implemented(family: str, config: Mapping[str, Any]) -> None:
    if family not in FAMILIES:
        raise Unsupported(f"model type {family!r} is none of {', '.join(FAMILIES)}")
    if _activation(config) not in ACTIVATIONS:
        raise Unsupported(f"activation {_activation(config)!r}")
    if config.get("quantization_config"):
        raise Unsupported("a quantised checkpoint")
    for other in ("use_bidirectional_attention", "attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(other):
            raise Unsupported(other)


def _activation(config: Mapping[str, Any]) -> str:
    found: str = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    return found


def _windows(family: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Mistral and Phi 3 have one for all layers, Qwen for the last ones if it is switched on, Gemma 3 by a pattern."""
    layers, window = int(config["num_hidden_layers"]), int(config.get("sliding_window") or 0)
    if family == "llama" or (family.startswith("qwen") and not config.get("use_sliding_window")):
        window = 0
    kinds = config.get("layer_types")
    if kinds is None and family == "gemma3_text":
        pattern = config.get("sliding_window_pattern", GEMMA_PATTERN)
        kinds = ["full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)]
    if kinds is None and family.startswith("qwen"):
        first = config.get("max_window_layers", layers)
        kinds = ["full_attention" if layer < first else "sliding_attention" for layer in range(layers)]
    if kinds is None:
        return (window,) * layers
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _ropes(config: Mapping[str, Any], *, head_dim: int) -> tuple[Rope, Rope | None]:
    """Of layers that see all, and of those with a window if that differs."""
    found = config.get("rope_parameters") or {}
    full, windowed = found.get("full_attention"), found.get("sliding_attention")
    if not full:
        full = _one_rope(config)
    if not windowed and "rope_local_base_freq" in config:
        windowed = {"rope_theta": config["rope_local_base_freq"]}
    try:
        context = config["max_position_embeddings"]
        main = rope.read(full, head_dim=head_dim, context=context)
        return main, rope.read(windowed, head_dim=head_dim, context=context) if windowed else None
    except UnknownRope as error:
        raise Unsupported(str(error)) from error


def _one_rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers 5 writes rope_parameters; before, there were rope_theta and rope_scaling beside each other."""
    outside = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
    given = {key: config[key] for key in outside if config.get(key) is not None}
    return {**given, **(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}


def _eos(directory: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """generation_config.json has the last word, as in transformers."""
    generation = directory / "generation_config.json"
    found = json.loads(generation.read_text()).get("eos_token_id") if generation.exists() else None
    found = config.get("eos_token_id") if found is None else found
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (found,)
