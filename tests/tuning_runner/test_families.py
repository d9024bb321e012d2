"""Every family of models: what the adapter lies beside, and whether examples may lie side by side."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from presets.architecture import Architecture
from presets.catalog import Model, load_catalog
from presets.estimate_tuning import adapter_parameters
from presets.training_config import default_text, parse
from tuning_runner import document_attention
from tuning_runner.batches import Batches, keeps_apart
from tuning_runner.hyperparameters import lora

pytestmark = [
    pytest.mark.tuning,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # transformers' own, about old names of a few families
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),  # peft sets it right by itself
]
CATALOG = load_catalog()
SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
ODD: dict[str, dict[str, Any]] = {"gpt2": {**GPT2, "bos_token_id": 1, "eos_token_id": 2}}
HEAD_OF_8 = ("gemma2", "gemma3_text", "gpt_oss", "mistral", "qwen3")
PADDED = ("falcon", "gpt_oss")
"""Families whose attention reads across the examples of a row, so that theirs are padded."""
FAMILIES = (
    *("falcon", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "granite", "llama", "mistral", "mixtral", "olmo2"),
    *("phi", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3"),
)


def model(family: str) -> Any:
    torch.manual_seed(0)
    sizes = ODD.get(family) or {**SIZES, **({"head_dim": 8} if family in HEAD_OF_8 else {})}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_lies_beside_every_linear_layer_but_the_head(family: str) -> None:
    small = model(family)
    head = small.get_output_embeddings()
    layers = {
        name for name, each in small.named_modules() if isinstance(each, torch.nn.Linear | Conv1D) and each is not head
    }
    tuned = get_peft_model(small, lora(parse(default_text("lora"), method="lora"), small)).base_model.model
    assert {name for name, each in tuned.named_modules() if hasattr(each, "lora_A")} == layers


@pytest.mark.parametrize("name", sorted(model.name for model in CATALOG.models.values() if model.tuning))
def test_the_catalogue_reckons_with_the_adapter_that_is_trained(name: str) -> None:
    """Two layers of the model's own sizes, without their weights, given the adapter that the trainer gives them."""
    row = CATALOG.models[name]
    of = replace(row.architecture, layers=2)
    with torch.device("meta"):
        shaped = AutoModelForCausalLM.from_config(AutoConfig.for_model(row.adapter_family, **_sizes(row, of)))
    config = lora(parse(default_text("lora"), method="lora"), shaped)
    tuned = get_peft_model(shaped, config, low_cpu_mem_usage=True)
    trained = sum(each.numel() for each in tuned.parameters() if each.requires_grad)
    assert set(config.target_modules) == set(row.target_modules)
    assert trained == adapter_parameters(of, rank=8, targets=row.target_modules)


def _sizes(row: Model, of: Architecture) -> dict[str, Any]:
    """As config.json has them."""
    made = {
        "vocab_size": 128,
        "hidden_size": of.hidden,
        "num_hidden_layers": of.layers,
        "num_attention_heads": of.heads,
        "num_key_value_heads": of.kv_heads,
        "intermediate_size": of.intermediate,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if row.adapter_family == "llama":
        return {**made, "head_dim": of.head_size}
    if row.adapter_family == "falcon":
        return {**made, "new_decoder_architecture": of.kv_heads > 1, "num_kv_heads": of.kv_heads, "bias": False}
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_lie_side_by_side_where_the_model_keeps_them_apart(family: str) -> None:
    small = model(family)
    document_attention.use(small)
    assert keeps_apart(small, Batches(pad_token_id=0, longest=64, fills=True)) == (family not in PADDED)
