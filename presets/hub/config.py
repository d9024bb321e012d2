"""A ``config.json`` of the Hub → an architecture. Pure; what is missing or senseless is said with its key."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from presets.architecture import Architecture, Experts, LatentAttention
from presets.estimate import Dtype, Quantisation

Config = Mapping[str, Any]
PACKED: Mapping[str, Quantisation] = {"fp8": "fp8", "mxfp4": "mxfp4"}
"""quantization_config.quant_method → our word; other methods are known by the size of their files alone."""
NOT_GATED = ("phi", "falcon", "gpt2", "gpt_neox", "starcoder2", "opt", "bloom", "mpt", "gptj", "stablelm_epoch")
"""Families (``model_type``) whose MLP has two matrices."""
TIED_UNLESS_SAID = ("gemma", "gemma2", "gemma3", "gemma3_text", "falcon", "gpt2", "bloom", "opt")
"""Families whose configuration class ties the embeddings by default, so that the file need not say so."""
OTHER_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "max_sequence_length", "seq_length"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
}
UNSAID_CONTEXT = 2048


class UnreadableConfig(Exception):
    """The file does not say what is needed; one line."""


def architecture(config: Config) -> Architecture:
    """What a causal language model is made of. Raises UnreadableConfig."""
    text = text_part(config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    hidden, heads = _number(text, "hidden_size"), _number(text, "num_attention_heads")
    layers = _number(text, "num_hidden_layers")
    latent = _latent(text)
    head_size = _optional(text, "qk_nope_head_dim" if latent else "head_dim") or hidden // max(heads, 1)
    try:
        return Architecture(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=_kv_heads(text, heads),
            head_size=head_size,
            intermediate=_optional(text, "intermediate_size") or 4 * hidden,
            vocabulary=_number(text, "vocab_size"),
            context=_optional(text, "max_position_embeddings") or UNSAID_CONTEXT,
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", kind in TIED_UNLESS_SAID))),
            gated=kind not in NOT_GATED,
            experts=_experts(text),
            latent=latent,
            **_windows(text, kind, layers),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UnreadableConfig(f"config.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def text_part(config: Config) -> Config:
    """The language model of a model that also reads images, or the whole. Raises UnreadableConfig."""
    named = config.get("architectures") or ()
    text = config.get("text_config")
    if isinstance(text, Mapping):
        return text
    if not any(str(name).endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in named):
        told = ", ".join(map(str, named)) or "no architecture"
        raise UnreadableConfig(f"{told}: only causal language models (…ForCausalLM) can be served")
    return config


def dtype(config: Config) -> Dtype:
    """What the weights are loaded as: bfloat16 where the file does not say."""
    said = str(config.get("torch_dtype") or config.get("dtype") or text_part(config).get("torch_dtype") or "")
    return "float16" if said == "float16" else "float32" if said == "float32" else "bfloat16"


def quantisation(config: Config) -> Quantisation:
    """How the files are packed, where we can tell packed matrices from others."""
    how = config.get("quantization_config")
    method = str(how.get("quant_method", "")) if isinstance(how, Mapping) else ""
    return PACKED.get(method, "")


def _kv_heads(text: Config, heads: int) -> int:
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    return _optional(text, "num_key_value_heads") or _optional(text, "num_kv_heads") or heads


def _windows(text: Config, kind: str, layers: int) -> dict[str, int]:
    """The window and the layers that have it: listed in ``layer_types``, or every so many, or all, or none."""
    window = _optional(text, "sliding_window") or 0
    if not window or text.get("use_sliding_window") is False:
        return {}
    listed = text.get("layer_types")
    if isinstance(listed, list):
        windowed = sum(each == "sliding_attention" for each in listed)
    elif kind == "gemma2":
        windowed = layers // 2
    elif kind.startswith("gemma3"):
        windowed = layers - layers // (_optional(text, "sliding_window_pattern") or 6)
    else:
        windowed = layers
    return {"window": window, "windowed_layers": windowed} if windowed else {}


def _experts(text: Config) -> Experts | None:
    keys = ("n_routed_experts", "num_local_experts", "num_experts")
    count = next((found for key in keys if (found := _optional(text, key))), 0)
    if not count:
        return None
    inner = _optional(text, "moe_intermediate_size") or _number(text, "intermediate_size")
    per_token = _optional(text, "num_experts_per_tok") or _optional(text, "experts_per_token") or 1
    shared = _optional(text, "shared_expert_intermediate_size") or inner * (_optional(text, "n_shared_experts") or 0)
    return Experts(
        count=count,
        per_token=per_token,
        intermediate=inner,
        shared_intermediate=shared,
        dense_layers=_optional(text, "first_k_dense_replace") or 0,
    )


def _latent(text: Config) -> LatentAttention | None:
    rank = _optional(text, "kv_lora_rank")
    if not rank:
        return None
    return LatentAttention(
        kv_rank=rank,
        query_rank=_optional(text, "q_lora_rank") or 0,
        rope_head_size=_number(text, "qk_rope_head_dim"),
        value_head_size=_number(text, "v_head_dim"),
    )


def _number(text: Config, key: str) -> int:
    found = _optional(text, key)
    if found is None:
        raise UnreadableConfig(f"config.json has no {key}")
    return found


def _optional(text: Config, key: str) -> int | None:
    """A whole number under this key or one of its older names; null counts as absent."""
    for name in (key, *OTHER_NAMES.get(key, ())):
        value = text.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UnreadableConfig(f"config.json: {name} is {value!r}, no whole number")
        return value
    return None
