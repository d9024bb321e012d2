"""What a checkpoint's config.json says about the network, in one frozen value."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Unsupported(Exception):
    """This engine cannot run the checkpoint; the message says which part of it."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding: base, and Llama 3's frequency scaling where the model has it."""

    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    """Tokens of the original context; 0 means no scaling."""


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
    rope: Rope
    tied: bool
    qk_norm: bool
    """Qwen 3 normalises queries and keys per head."""
    eos: tuple[int, ...]

    @property
    def kv_values_per_token(self) -> int:
        """Elements of keys and values that one token adds to the cache, all layers together."""
        return 2 * self.layers * self.kv_heads * self.head_dim


FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3")


def read(directory: Path) -> Architecture:
    """Reads config.json and generation_config.json. Raises Unsupported."""
    config = json.loads((directory / "config.json").read_text())
    family = config.get("model_type", "")
    _refuse_what_is_not_implemented(family, config)
    heads = config["num_attention_heads"]
    return Architecture(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        context=_context(config),
        norm_eps=config["rms_norm_eps"],
        rope=_rope(config),
        tied=config.get("tie_word_embeddings", False),
        qk_norm=family == "qwen3",
        eos=_eos(directory, config),
    )


def _refuse_what_is_not_implemented(family: str, config: dict[str, Any]) -> None:
    if family not in FAMILIES:
        raise Unsupported(f"model type {family!r} is none of {', '.join(FAMILIES)}")
    if config.get("hidden_act", "silu") != "silu":
        raise Unsupported(f"activation {config['hidden_act']!r}")
    if config.get("quantization_config"):
        raise Unsupported("a quantised checkpoint")
    if config.get("attention_bias"):
        raise Unsupported("biases in the attention")
    if config.get("mlp_bias"):
        raise Unsupported("biases in the MLP")
    partial = _rope_parameters(config).get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise Unsupported("partial rotary embedding")


def _context(config: dict[str, Any]) -> int:
    """Positions; a sliding window caps it, since inside the window sliding and full attention are the same."""
    positions: int = config["max_position_embeddings"]
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return min(positions, window) if window else positions


def _rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes rope_parameters; before, there were rope_theta and rope_scaling."""
    return config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta", 10000.0),
        **(config.get("rope_scaling") or {}),
    }


def _rope(config: dict[str, Any]) -> Rope:
    found = _rope_parameters(config)
    kind = found.get("rope_type", found.get("type", "default"))
    theta = float(found.get("rope_theta", 10000.0))
    if kind == "default":
        return Rope(theta=theta)
    if kind == "llama3":
        return Rope(
            theta=theta,
            factor=found["factor"],
            low_freq_factor=found["low_freq_factor"],
            high_freq_factor=found["high_freq_factor"],
            original_context=found["original_max_position_embeddings"],
        )
    raise Unsupported(f"rotary embedding of type {kind!r}")


def _eos(directory: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """generation_config.json has the last word, as in transformers."""
    generation = directory / "generation_config.json"
    found = json.loads(generation.read_text()).get("eos_token_id") if generation.exists() else None
    found = config.get("eos_token_id") if found is None else found
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (found,)
