"""Every family that the native engine knows: the logits of transformers, and its tokens, on small random models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from inference_server.engines.native import architecture
from inference_server.engines.native.architecture import Unsupported
from tests.support.native import Parts

pytestmark = pytest.mark.server

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "eos_token_id": None, "bos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONG = 40
"""Tokens of the longest prompt: more than the windows and the original contexts below."""


def longrope(turned: int) -> dict[str, Any]:
    short, long = [1.0 + pair / 10 for pair in range(turned // 2)], [2.0 + pair for pair in range(turned // 2)]
    return {"rope_type": "longrope", "rope_theta": 1000.0, "short_factor": short, "long_factor": long}


PHI4 = {**longrope(6), "partial_rotary_factor": 0.75, "original_max_position_embeddings": 32}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "smollm, tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama 3, stretched": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama, stretched evenly": lambda: LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
    ),
    "llama with biases": lambda: LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": lambda: MistralConfig(**SIZES, head_dim=16, sliding_window=None),
    "mistral with a window": lambda: MistralConfig(**SIZES, sliding_window=16),
    "qwen 2": lambda: Qwen2Config(**SIZES),
    "qwen 2 with a window in the last layers": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=10, max_window_layers=1
    ),
    "qwen 3": lambda: Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "phi 3 with a window": lambda: Phi3Config(**SIZES, sliding_window=20),
    "phi 3, stretched": lambda: Phi3Config(
        **SIZES, original_max_position_embeddings=32, rope_parameters={**longrope(8)}
    ),
    "phi 4 mini": lambda: Phi3Config(**SIZES, original_max_position_embeddings=32, rope_parameters=PHI4),
    "gemma 3": lambda: Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=12, query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
        },
    ),
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A directory with a random model of the family, and the model: every weight and bias counts."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(FAMILIES[request.param](), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.15)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def prompt(length: int, seed: int = 3) -> list[int]:
    torch.manual_seed(seed)
    found: list[int] = torch.randint(0, SIZES["vocab_size"], (length,)).tolist()
    return found


@pytest.mark.parametrize("length", [20, LONG])
def test_the_logits_of_every_token_are_those_of_transformers(family: tuple[Path, Any], length: int) -> None:
    directory, model = family
    tokens = prompt(length)
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0]
    found = Parts.of_directory(directory).logits(tokens)
    assert wanted.std() > 0.1, "the comparison would say nothing"
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_greedy_texts_are_those_of_transformers_in_batches_and_chunks(family: tuple[Path, Any]) -> None:
    directory, model = family
    prompts, new = [prompt(length, seed=length) for length in (3, LONG, 19, 5)], 8
    wanted = [
        model.generate(
            torch.tensor([each]),
            attention_mask=torch.ones(1, len(each)),
            do_sample=False,
            max_new_tokens=new,
            pad_token_id=0,
        )[0, len(each) :].tolist()
        for each in prompts
    ]
    assert Parts.of_directory(directory).generated(prompts, new=new) == wanted
    assert Parts.of_directory(directory, budget=7).generated(prompts, new=new) == wanted


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba"}, "model type 'mamba' is none of llama, "),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "a quantised checkpoint"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rotary embedding of type 'yarn'"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ],
)
def test_what_is_not_implemented_is_said(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    LlamaConfig(**SIZES).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(Unsupported, match=reason):
        architecture.read(tmp_path)


def test_older_configurations_say_the_same(tmp_path: Path) -> None:
    """Before transformers 5 there were rope_theta, rope_scaling and sliding_window_pattern."""
    gemma = {**SIZES, "model_type": "gemma3_text", "head_dim": 16, "rms_norm_eps": 1e-6, "num_hidden_layers": 7,
             "sliding_window": 12, "sliding_window_pattern": 3, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
             "rope_scaling": {"rope_type": "linear", "factor": 8.0}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(gemma))
    found = architecture.read(tmp_path)
    assert found.windows == (12, 12, 0, 12, 12, 0, 12)
    assert found.window_rope is not None
    assert found.rope.variants[0][0] == 1 / 8
    assert (found.window_rope.variants[0][0], found.window_rope.variants[0][1]) == (1.0, 1e4 ** (-2 / 16))
