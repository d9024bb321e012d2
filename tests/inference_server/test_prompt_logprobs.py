"""What the transformers engine tells of a long prompt: the same as in one piece, a few rows of logits at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from inference_server.engines.adapters import Adapters
from inference_server.engines.engine import Generation, Step, TokenLogprob
from inference_server.engines.transformers_model import AT_ONCE, TransformersModel
from tests.support.tiny_model import write_tiny_model

VOCABULARY = 65
LONG = 2 * AT_ONCE + 77
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "eos_token_id": 2}


def gpt2(_: Path) -> Any:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=VOCABULARY, eos_token_id=2))


def llama(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model)


def gemma3(_: Path) -> Any:
    """Sliding windows shorter than a piece, and caps on its logits."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64}
    windows = {"sliding_window": 40, "layer_types": ["sliding_attention", "full_attention"]}
    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, **heads, **windows, final_logit_softcapping=5.0))


def mamba(_: Path) -> Any:
    """It has no keys and values to go on from."""
    return MambaForCausalLM(MambaConfig(**SMALL, state_size=4))


@pytest.mark.parametrize(("made", "most"), [(llama, AT_ONCE), (gpt2, AT_ONCE), (gemma3, AT_ONCE), (mamba, LONG)])
@pytest.mark.parametrize("length", [1, 2, AT_ONCE, AT_ONCE + 1, LONG])
def test_a_long_prompt_is_told_of_in_pieces_and_all_the_same(made: Any, most: int, length: int, tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path, context=1024)
    torch.manual_seed(3)
    model, rows = made(tiny).eval(), []
    prompt = [5 + (7 * place + place // 9) % 60 for place in range(length)]
    with torch.no_grad():
        wanted = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: rows.append(logits.shape[1]))
    served = TransformersModel(
        model,
        tokenizer=AutoTokenizer.from_pretrained(tiny),
        name="tiny",
        adapters=Adapters(model, directory=tmp_path / "none", strengths={}),
    )
    steps: list[Step] = []
    asked = Generation(tuple(prompt), 1, {"do_sample": False, "prompt_logprobs": 1})
    served.generate(asked, put=steps.append, unwanted=lambda: False)
    expected: list[Any] = [
        (pytest.approx(float(row[token]), abs=1e-4), int((row > row[token]).sum()) + 1)
        for row, token in zip(wanted, prompt[1:], strict=False)
    ]
    assert [(each.logprob, each.rank) for each in steps[0].prompt] == expected
    assert [likeliest(each) for each in steps[0].prompt] == [int(row.argmax()) for row in wanted[:-1]]
    assert max(rows) <= most


def likeliest(told: TokenLogprob) -> int:
    [(token, _)] = told.likeliest
    return token
