"""KAITO's ``training_config.yaml``: read and judged without torch, before a machine is bought for it.

Rules: KAITO's webhook (six sections; which quantisation goes with which method; where results may go).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from presets import training_keys

HERE = Path(__file__).parent / "training"
ROOT = "training_config"
SECTIONS = ("ModelConfig", "QuantizationConfig", "LoraConfig", "TrainingArguments", "DatasetConfig", "DataCollator")
MOUNT = PurePosixPath("/mnt")
BITS = {"load_in_4bit": 4, "load_in_8bit": 8}


class TrainingConfigError(Exception):
    """The configuration cannot be trained with; ``problems`` has everything, each with what to write instead."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The sections, their keys as this version has them; ``bits`` are those of the frozen base model, 0 if it is not
    quantised."""

    sections: Mapping[str, Mapping[str, Any]]
    bits: int


@cache
def default_text(method: str) -> str:
    """The configuration of a method (lora or qlora) for which none is named."""
    return (HERE / f"{method}.yaml").read_text()


def parse(text: str, *, method: str) -> TrainingConfig:
    """Reads a configuration for a method, lora or qlora. Raises TrainingConfigError with everything that is wrong."""
    written = _sections(text)
    wrong = [problem for name, given in written.items() for problem in training_keys.problems(name, given)]
    sections = {name: training_keys.normalised(name, given) for name, given in written.items()}
    quantized = sections.get("QuantizationConfig", {})
    if problems := (*wrong, *_quantization(quantized, method=method), *_output(sections), *_split(sections)):
        raise TrainingConfigError(problems)
    return TrainingConfig(sections, next((bits for key, bits in BITS.items() if quantized.get(key)), 0))


def _sections(text: str) -> dict[str, Mapping[str, Any]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TrainingConfigError((f"it is no YAML: {' '.join(str(error).split())}",)) from error
    found = content.get(ROOT) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise TrainingConfigError((f"write the sections under the key {ROOT}",))
    unknown = tuple(_unknown(str(name)) for name in found if name not in SECTIONS)
    shapeless = tuple(
        f"{name}: write keys and values" for name, body in found.items() if not isinstance(body, dict | None)
    )
    if unknown or shapeless:
        raise TrainingConfigError((*unknown, *shapeless))
    return {str(name): body or {} for name, body in found.items()}


def _unknown(name: str) -> str:
    nearest = get_close_matches(name, SECTIONS, n=1)
    return f"{name}: there is no such section; " + (
        f"did you mean {nearest[0]}?" if nearest else f"write one of {', '.join(SECTIONS)}"
    )


def _quantization(section: Mapping[str, Any], *, method: str) -> Iterator[str]:
    on = [key for key in BITS if section.get(key) is True]
    if len(on) > 1:
        yield "QuantizationConfig: load_in_4bit and load_in_8bit exclude each other: leave one out"
    if method == "lora" and on:
        yield f"QuantizationConfig.{on[0]}: method lora does not quantise: write false, or tuning.method qlora"
    if method == "qlora" and not on:
        yield "QuantizationConfig: method qlora quantises: write load_in_4bit: true, or tuning.method lora"


def _output(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    given = sections.get("TrainingArguments", {}).get("output_dir", "/mnt/results")
    if not isinstance(given, str):
        yield "TrainingArguments.output_dir: write a directory below /mnt"
        return
    parts = (MOUNT / given).parts
    if ".." in parts or MOUNT not in PurePosixPath(*parts).parents:
        yield "TrainingArguments.output_dir: write a directory below /mnt"


def _split(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    given = sections.get("DatasetConfig", {}).get("train_test_split", 1)
    if isinstance(given, int | float) and not isinstance(given, bool) and not 0 < given <= 1:
        yield "DatasetConfig.train_test_split: write the share to train on, above 0 and at most 1"
