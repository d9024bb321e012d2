"""What a training configuration comes to in the estimate: keys that memory depends on, and the trainer's defaults."""

from typing import Any

import pytest
import yaml

from presets.catalog import load_catalog
from presets.estimate_tuning import Tuning
from presets.training_config import TrainingConfig, default_text, parse
from presets.tuning_asked import asked, memory_gib

MODEL = load_catalog().model("phi-3-mini-128k-instruct")
DEFAULT = Tuning(method="lora", rank=8, targets=MODEL.target_modules, batch=1, sequence=2048, checkpointing=True)


def config(method: str = "lora", /, **sections: dict[str, Any]) -> TrainingConfig:
    return parse(yaml.safe_dump({"training_config": sections}), method=method)


def test_kaitos_defaults_are_asked_as_they_are() -> None:
    assert asked(MODEL, parse(default_text("lora"), method="lora"), on_gpu=True) == DEFAULT
    assert asked(MODEL, parse(default_text("qlora"), method="qlora"), on_gpu=True).method == "qlora"


ROWS = {"per_device_train_batch_size": 1}
KEYS: dict[str, tuple[dict[str, dict[str, Any]], str, object]] = {
    "rank": ({"LoraConfig": {"r": 64}}, "rank", 64),
    "batch": ({"TrainingArguments": {"per_device_train_batch_size": 4}}, "batch", 4),
    "no batch": ({"TrainingArguments": {}}, "batch", 8),
    "length": ({"TrainingArguments": {"max_length": 512}}, "sequence", 512),
    "length, beyond the context": ({"TrainingArguments": {"max_length": 10**6}}, "sequence", 131072),
    "length, as long as the context": ({"TrainingArguments": {"max_length": None}}, "sequence", 131072),
    "no checkpointing": ({"TrainingArguments": {"gradient_checkpointing": False}}, "checkpointing", False),
    "8-bit optimizer": ({"TrainingArguments": {"optim": "paged_adamw_8bit"}}, "optimizer", "adamw_8bit"),
    "sgd": ({"TrainingArguments": {"optim": "sgd"}}, "optimizer", "sgd"),
    "some layers": ({"LoraConfig": {"target_modules": ["qkv_proj"]}}, "targets", ("qkv_proj",)),
    "all layers": ({"LoraConfig": {"target_modules": "all-linear"}}, "targets", MODEL.target_modules),
    "layers nobody knows": ({"LoraConfig": {"target_modules": ["lm_head_x"]}}, "targets", MODEL.target_modules),
}


@pytest.mark.parametrize("case", KEYS)
def test_what_memory_depends_on_is_read(case: str) -> None:
    sections, field, value = KEYS[case]
    assert getattr(asked(MODEL, config(**sections), on_gpu=True), field) == value


def test_without_a_gpu_nothing_is_recomputed() -> None:
    assert not asked(MODEL, config(TrainingArguments=ROWS), on_gpu=False).checkpointing


def test_a_base_of_8_bits_is_between_one_of_4_and_one_of_16() -> None:
    bits = [{"load_in_4bit": True}, {"load_in_8bit": True}]
    four, eight = (
        memory_gib(MODEL, config("qlora", QuantizationConfig=b, TrainingArguments=ROWS), gpus=1) for b in bits
    )
    assert four < eight < memory_gib(MODEL, config(TrainingArguments=ROWS), gpus=1)
