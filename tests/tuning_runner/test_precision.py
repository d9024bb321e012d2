"""What a training computes in on cards that are not here: all that does not need one."""

import platform
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from presets.cards import OLDEST, Capability, too_old
from presets.training_config import default_text, parse
from tests.support.tiny_model import write_tiny_model
from tuning_runner import accelerator, hyperparameters
from tuning_runner.adapter_trainer import learn_in_float32

pytestmark = [
    pytest.mark.tuning,
    pytest.mark.filterwarnings("ignore:`?is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
]
V100, T4, A100 = (7, 0), (7, 5), (8, 0)
NO_CARD = None


@pytest.mark.parametrize(
    ("card", "computed"),
    [(V100, torch.float16), (T4, torch.float16), (A100, torch.bfloat16), (NO_CARD, torch.bfloat16)],
)
def test_kaitos_default_configurations_compute_in_what_the_card_has(
    card: Capability | None, computed: torch.dtype
) -> None:
    """Both say bfloat16 for the model, and qlora's for what its four bits are unpacked to."""
    for method in ("lora", "qlora"):
        config = parse(default_text(method), method=method)
        assert accelerator.dtype(hyperparameters.dtype(config), card, family="phi3") == computed
    quantised = hyperparameters.quantization(config, computed=computed)
    assert quantised is not None
    assert quantised.bnb_4bit_compute_dtype == computed


@pytest.mark.parametrize("asked", [torch.float32, torch.float16])
def test_another_dtype_is_taken_as_it_is_asked_for(asked: torch.dtype) -> None:
    assert accelerator.dtype(asked, V100, family="phi3") == asked


@pytest.mark.parametrize(
    ("section", "computed", "on_gpu", "chosen"),
    [
        ({}, torch.bfloat16, True, {"bf16": True, "fp16": False}),
        ({}, torch.float16, True, {"bf16": False, "fp16": True}),
        ({}, torch.float32, True, {"bf16": False, "fp16": False}),
        ({}, torch.bfloat16, False, {"bf16": False, "fp16": False}),
        ({}, torch.float16, False, {"bf16": False, "fp16": False}),
        ({"fp16": True}, torch.bfloat16, True, {"bf16": False, "fp16": False}),  # theirs comes on top
        ({"bf16": True}, torch.float16, True, {"bf16": False, "fp16": False}),
    ],
)
def test_the_loss_is_scaled_where_float16_is_computed(
    section: dict[str, bool], computed: torch.dtype, on_gpu: bool, chosen: dict[str, bool]
) -> None:
    assert hyperparameters.mixed_precision(section, computed=computed, on_gpu=on_gpu) == chosen


def test_beside_a_base_in_float16_an_adapter_learns_in_float32(tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(write_tiny_model(tmp_path), dtype=torch.float16)
    tuned = get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()  # as trl has it beside a quantised base
    learn_in_float32(tuned)
    assert {each.dtype for each in tuned.parameters() if each.requires_grad} == {torch.float32}
    assert {each.dtype for each in tuned.parameters() if not each.requires_grad} == {torch.float16}


def test_the_oldest_card_is_the_oldest_that_torch_of_the_lock_is_built_for() -> None:
    """What the operator and ``kaito plan`` go by is a figure; this is where it comes from."""
    built_for = torch.cuda.get_arch_list()
    if torch.version.cuda is None or platform.machine() != "x86_64":
        pytest.skip("this torch is built for processors alone, or for machines with Arm's")
    assert too_old(OLDEST, built_for) == ""
    assert too_old((OLDEST[0], OLDEST[1] - 1), built_for) != ""
