"""A model of a real size whose weights say nothing: how fast it is does not depend on them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from local_cluster import model

LLAMA = {
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "tie_word_embeddings": True},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "tie_word_embeddings": False},
}  # fmt: skip
"""As Llama 3.2 1B and Llama 3.1 8B are, but for the context; tiny is for trying the bench out."""
VOCABULARY = {"tiny": 49152, "1b": 128256, "8b": 128256}
SHARD_BYTES = 4 << 30


def config(size: str) -> LlamaConfig:
    """Of one of LLAMA."""
    found = LlamaConfig(
        **LLAMA[size], vocab_size=VOCABULARY[size], max_position_embeddings=8192, rope_theta=500000.0, bos_token_id=1,
        eos_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    found.architectures = ["LlamaForCausalLM"]
    return found


def shapes(of: LlamaConfig) -> dict[str, torch.Size]:
    """Of every tensor of its checkpoint."""
    with torch.device("meta"):
        named = AutoModelForCausalLM.from_config(of).state_dict()
    return {name: tensor.shape for name, tensor in named.items() if not (of.tie_word_embeddings and "lm_head" in name)}


def write(directory: Path, size: str, *, device: torch.device) -> int:
    """Writes it in bfloat16, with the tokenizer of the embedded model. Answers the bytes that each step reads."""
    of = config(size)
    of.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (file := model.find() / name).exists():
            (directory / name).write_bytes(file.read_bytes())
    all_of_it = shapes(of)
    _write_shards(directory, all_of_it, device=device)
    looked_up = "nothing" if of.tie_word_embeddings else "embed_tokens"  # of an embedding alone one row is read
    return sum(2 * shape.numel() for name, shape in all_of_it.items() if looked_up not in name)


def _write_shards(directory: Path, shapes: dict[str, Any], *, device: torch.device) -> None:
    torch.manual_seed(0)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        made = torch.ones(shape, device=device) if "norm" in name else torch.randn(shape, device=device) * 0.02
        shard[name] = made.to("cpu", torch.bfloat16)
        if sum(2 * each.numel() for each in shard.values()) >= SHARD_BYTES or name == list(shapes)[-1]:
            file = f"model-{len(set(places.values())) + 1}.safetensors"
            save_file(shard, directory / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
            shard = {}
    index = {"metadata": {"total_size": sum(2 * shape.numel() for shape in shapes.values())}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
