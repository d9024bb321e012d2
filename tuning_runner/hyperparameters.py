"""From the sections of training_config.yaml to the configurations of peft, bitsandbytes and trl.

Built from the mapping, not by way of a command line: KAITO's way flattens values to strings, which breaks every key
whose value is a mapping.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import SFTConfig

from presets import target_modules
from presets.training_config import TrainingConfig
from presets.training_keys import DROPPED
from presets.tuning_steps import ExitCode
from tuning_runner.examples import Columns
from tuning_runner.transfer_ending import StepFailed

LONGEST_EXAMPLE = 2048
"""Tokens by default, or the model's context if that is shorter."""
SEED = 42


def lora(config: TrainingConfig, model: Any) -> LoraConfig:
    """The adapter. Beside all linear layers of attention and MLP, unless the configuration names some."""
    section = dict(config.sections.get("LoraConfig", {}))
    if section.get("target_modules") is None:
        there = target_modules.among(name.rpartition(".")[2] for name, _ in model.named_modules())
        section["target_modules"] = list(there) or "all-linear"
    return _built("LoraConfig", LoraConfig, {**section, "task_type": "CAUSAL_LM"})


def quantization(config: TrainingConfig, *, computed: torch.dtype) -> BitsAndBytesConfig | None:
    """How the frozen base is quantised; None if it is not. ``computed``: what is taken where the card has no
    bfloat16."""
    if not config.bits:
        return None
    section = dict(config.sections.get("QuantizationConfig", {}))
    if computed == torch.float16 and section.get("bnb_4bit_compute_dtype") == "bfloat16":
        section["bnb_4bit_compute_dtype"] = "float16"
    return _built("QuantizationConfig", BitsAndBytesConfig, section)


def dtype(config: TrainingConfig) -> torch.dtype:
    """What the base model is computed in: bfloat16 unless ModelConfig says otherwise."""
    section = config.sections.get("ModelConfig", {})
    name = str(section.get("dtype") or section.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    found = torch.bfloat16 if name == "auto" else getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise StepFailed(ExitCode.CONFIG_INVALID, f"ModelConfig.torch_dtype: there is no {name!r}; write bfloat16")
    return found


def arguments(
    config: TrainingConfig, *, checkpoints: Path, context: int, packs: bool, computed: torch.dtype, on_gpu: bool
) -> SFTConfig:
    """How it is trained. ``context``: tokens that the model can read; ``packs``: whether examples may share a row;
    ``computed``: what the model computes in."""
    section = config.sections.get("TrainingArguments", {})
    order = division(config)
    chosen = {
        "activation_checkpointing": on_gpu,
        "data_seed": order.seed,  # where DatasetConfig has none, the seed of all
        "eval_strategy": "epoch" if order.held_back else "no",
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1,
        "max_length": min(LONGEST_EXAMPLE, context),
        "packing": packs,
        "packing_strategy": "bfd_split",  # a long text goes on in the next row; nothing of it is lost
        "per_device_eval_batch_size": section.get("per_device_train_batch_size", 8),
        "seed": SEED,
        "train_sampling_strategy": "random" if order.shuffles else "sequential",
        "use_cpu": not on_gpu,
        **mixed_precision(section, computed=computed, on_gpu=on_gpu),
        **{key: value for key, value in section.items() if key not in DROPPED},
        "disable_tqdm": True,
        "output_dir": str(checkpoints),
        "report_to": "none",
    }
    return _built("TrainingArguments", SFTConfig, chosen)


def mixed_precision(section: Mapping[str, Any], *, computed: torch.dtype, on_gpu: bool) -> dict[str, bool]:
    """TrainingArguments of it, where the configuration leaves them open: float16 alone needs its loss scaled. Without a
    GPU the model's own dtype is all."""
    return {
        "bf16": on_gpu and computed == torch.bfloat16 and not section.get("fp16"),
        "fp16": on_gpu and computed == torch.float16 and not section.get("bf16"),
    }


def columns(config: TrainingConfig) -> Columns:
    """Which columns of the data have what."""
    section = config.sections.get("DatasetConfig", {})
    return Columns(
        messages=str(section.get("messages_column") or ""),
        context=str(section.get("context_column") or ""),
        response=str(section.get("response_column") or "") if section.get("context_column") else "",
    )


@dataclass(frozen=True, slots=True)
class Division:
    """In which order examples come, and the share of them that the loss is evaluated on and that is not trained on."""

    held_back: float
    shuffles: bool
    seed: int | None


def division(config: TrainingConfig) -> Division:
    """As DatasetConfig has it."""
    section = config.sections.get("DatasetConfig", {})
    return Division(
        held_back=1 - float(section.get("train_test_split", 1)),
        shuffles=bool(section.get("shuffle_dataset", True)),
        seed=int(section["shuffle_seed"]) if "shuffle_seed" in section else None,
    )


def _built(section: str, made: Any, values: Mapping[str, Any]) -> Any:
    """The library's own checks become one line that names the section."""
    try:
        return made(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise StepFailed(ExitCode.CONFIG_INVALID, f"{section}: {' '.join(str(error).split())}") from error
