"""Rewrites a llama-architecture GGUF file as what transformers loads: bf16 safetensors, configuration and tokenizer.

GGUF's names and layouts are those of llama.cpp's convert_hf_to_gguf.py, read backwards. transformers can load the file
itself, but takes 11 s at each start (docs/reference/performance.md); this takes 3 s, once.
"""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType, dequantize
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

OUTSIDE_THE_LAYERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class CannotConvert(Exception):
    """The file is not one that this conversion knows; the message says in what."""


class Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, reader: GGUFReader) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        """The value of a key. Raises CannotConvert if the file has no such key."""
        if key not in self._fields:
            raise CannotConvert(f"the GGUF file has no {key}")
        return self._fields[key].contents()

    def expect(self, key: str, value: str) -> None:
        """Raises CannotConvert unless the key has this value."""
        if self[key] != value:
            raise CannotConvert(f"{key} is {self[key]!r}, this conversion knows {value!r}")


def convert(source: Path, target: Path) -> None:
    """Writes the model in ``source`` into the existing directory ``target``. Raises CannotConvert."""
    reader = GGUFReader(source)
    metadata = Metadata(reader)
    metadata.expect("general.architecture", "llama")
    metadata.expect("tokenizer.ggml.model", "gpt2")
    metadata.expect("tokenizer.ggml.pre", "smollm")
    weights = {hf_name(tensor.name): hf_layout(tensor, metadata=metadata) for tensor in reader.tensors}
    write_safetensors(target / "model.safetensors", {name: bfloat16(values) for name, values in weights.items()})
    tokenizer(metadata).save(str(target / "tokenizer.json"))
    (target / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"])
    _write_json(target / "tokenizer_config.json", tokenizer_config(metadata))
    _write_json(target / "config.json", config(metadata, tied="lm_head.weight" not in weights))
    _write_json(target / "generation_config.json", _special_ids(metadata))


def hf_name(name: str) -> str:
    """The name in transformers: ``blk.3.attn_q.weight`` → ``model.layers.3.self_attn.q_proj.weight``."""
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in IN_A_LAYER:
            return f"model.layers.{layer}.{IN_A_LAYER[part]}.weight"
        case [part, "weight"] if part in OUTSIDE_THE_LAYERS:
            return f"{OUTSIDE_THE_LAYERS[part]}.weight"
    raise CannotConvert(f"the GGUF file has an unknown tensor {name}")


def hf_layout(tensor: Any, *, metadata: Metadata) -> NDArray[np.float32]:
    """The values of a tensor as float32, rows in transformers' order."""
    values: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
    if ".attn_q." in tensor.name:
        return _half_rotary(values, heads=metadata["llama.attention.head_count"])
    if ".attn_k." in tensor.name:
        return _half_rotary(values, heads=metadata["llama.attention.head_count_kv"])
    return values


def _half_rotary(weight: NDArray[np.float32], *, heads: int) -> NDArray[np.float32]:
    """llama.cpp rotates neighbouring pairs of a head's rows, transformers its first half with its second."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of bfloat16, which numpy does not know: the upper half of float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def write_safetensors(path: Path, tensors: dict[str, NDArray[np.uint16]]) -> None:
    """A safetensors file of bfloat16 tensors: length of the header, header in JSON, data (its README, "Format").

    The library's own writers take torch tensors, which cost an import of torch, or numpy's, which know no bfloat16.
    """
    ends = list(accumulate(tensor.nbytes for tensor in tensors.values()))
    entries = {
        name: {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end - tensor.nbytes, end]}
        for (name, tensor), end in zip(tensors.items(), ends, strict=True)
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            out.write(tensor.data)


def tokenizer(metadata: Metadata) -> Tokenizer:
    """The byte-level BPE of SmolLM: digits one by one, then GPT-2's words (llama.cpp's pre-tokenizer ``smollm``)."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges: list[str] = metadata["tokenizer.ggml.merges"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    made.decoder = decoders.ByteLevel()
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return made


def tokenizer_config(metadata: Metadata) -> dict[str, Any]:
    """tokenizer_config.json: which tokens begin, end and pad."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": metadata["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }


def config(metadata: Metadata, *, tied: bool) -> dict[str, Any]:
    """config.json of a LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "head_dim": metadata["llama.rope.dimension_count"],
        "max_position_embeddings": metadata["llama.context_length"],
        # The file holds a float32; a configuration is written for people: 1e-05, not 9.999999747378752e-06.
        "rms_norm_eps": float(f"{metadata['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": metadata["llama.rope.freq_base"],
        "vocab_size": metadata["llama.vocab_size"],
        "tie_word_embeddings": tied,
        **_special_ids(metadata),
    }


def _special_ids(metadata: Metadata) -> dict[str, int]:
    return {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
