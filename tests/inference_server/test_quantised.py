"""bitsandbytes in the transformers engine: run on processors, for which it has kernels of its own."""

from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from inference_server.engines.engine import Generation, Loading, Ready
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings
from tests.support.cluster import eventually
from tests.support.tiny_model import write_tiny_model

pytestmark = pytest.mark.server
PROMPT = [10, 20, 30, 40]
NEW = 12
SMALLEST = 64
"""Inputs that bitsandbytes' kernel for 4 bits takes at a time on processors."""


def likelihoods(directory: Path, text: list[int], **loading: Any) -> list[float]:
    """What transformers itself, so loaded, says of each token of the text after PROMPT."""
    model = AutoModelForCausalLM.from_pretrained(directory, device_map="cpu", **loading)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + text[:-1]]), logits_to_keep=len(text)).logits[0].float()
    found: list[float] = logits.log_softmax(dim=-1)[torch.arange(len(text)), torch.tensor(text)].tolist()
    return found


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
async def test_a_quantised_model_answers_as_transformers_quantises_it(tmp_path: Path, bits: str) -> None:
    """By a strategy of accelerate's, which here ends on the processors; ``auto`` would not quantise for them."""
    flags = {"load_in_4bit": False, "load_in_8bit": False, bits: True}
    directory = write_tiny_model(tmp_path, hidden=SMALLEST)
    engine = TransformersEngine(
        Settings(pretrained_model_name_or_path=str(directory), device_map="sequential", **flags)
    )
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=120, what="the model is loaded")
    assert isinstance(engine.state, Ready)
    text: list[int] = []
    told: list[float] = []
    async with aclosing(
        engine.generate(Generation(tuple(PROMPT), NEW, {"do_sample": False, "top_logprobs": 1}))
    ) as all_:
        async for step in all_:
            text += step.tokens
            told += [each.logprob for each in step.logprobs]
    engine.stop()
    quantised = likelihoods(directory, text, quantization_config=BitsAndBytesConfig(**flags))
    assert told == pytest.approx(quantised, abs=1e-4)
    assert told != pytest.approx(likelihoods(directory, text), abs=1e-4), "it was not quantised"
