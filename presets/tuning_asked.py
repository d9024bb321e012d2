"""What a training configuration asks of the memory, as the estimate takes it: the trainer's own defaults where it is
silent. Pure.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from presets.estimate import CPU_OVERHEAD, GIB, GPU_OVERHEAD, quantised
from presets.estimate_tuning import Optimizer, Tuning, UnknownTarget, adapter_parameters, tuning
from presets.rows import Model
from presets.target_modules import FAMILIES
from presets.training_config import TrainingConfig

LONGEST_EXAMPLE = 2048
"""Tokens by default, or the model's context if that is shorter."""
RANK, BATCH = 8, 8
"""peft's and transformers' own."""


def memory_gib(model: Model, config: TrainingConfig, *, gpus: int) -> int:
    """GiB that a training takes: of all GPUs together, each of which holds all of it, or of the machine without any."""
    of = quantised(model.weights, "int8") if config.bits == 8 else model.weights
    each = tuning(of, asked(model, config, on_gpu=gpus > 0), overhead=GPU_OVERHEAD if gpus else CPU_OVERHEAD)
    return ceil(each.total * max(gpus, 1) / GIB)


def asked(model: Model, config: TrainingConfig, *, on_gpu: bool) -> Tuning:
    """The training as the estimate takes it."""
    section, lora = config.sections.get("TrainingArguments", {}), config.sections.get("LoraConfig", {})
    longest, context = section.get("max_length", LONGEST_EXAMPLE), model.architecture.context
    rank = int(lora.get("r", RANK))
    return Tuning(
        method="qlora" if config.bits == 4 else "lora",
        rank=rank,
        targets=_targets(model, lora.get("target_modules"), rank=rank),
        batch=int(section.get("per_device_train_batch_size", BATCH)),
        sequence=min(int(longest or context), context),
        checkpointing=bool(section.get("activation_checkpointing", on_gpu)),
        optimizer=_optimizer(section),
    )


def _targets(model: Model, given: object, *, rank: int) -> tuple[str, ...]:
    """The layers that the adapter lies beside; all where the configuration says so by a pattern, or in names that no
    known family has."""
    every = model.target_modules or FAMILIES["llama"]
    named = tuple(map(str, given)) if isinstance(given, list) else every
    try:
        adapter_parameters(model.architecture, rank=rank, targets=named)
    except UnknownTarget:
        return every
    return named


def _optimizer(section: Mapping[str, Any]) -> Optimizer:
    name = str(section.get("optim", ""))
    return "adamw_8bit" if "8bit" in name else "sgd" if name == "sgd" else "adamw"
