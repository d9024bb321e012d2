"""Writes presets/training/keys.yaml from peft, transformers and trl as they are installed.

``python -m scripts.training_keys``; a test of the trainer compares, so that the operator knows what the trainer does.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import yaml
from peft import LoraConfig
from transformers import BitsAndBytesConfig, DataCollatorForLanguageModeling
from trl import SFTConfig

from presets.training_keys import ANYTHING, DROPPED, NOTHING, TABLE

SCALARS = {bool: "bool", int: "int", float: "float", str: "str", type(None): NOTHING}
DTYPES = "=auto | =bfloat16 | =float16 | =float32 | =torch.bfloat16 | =torch.float16 | =torch.float32"
MODEL = {
    "torch_dtype": DTYPES, "dtype": DTYPES, "device_map": "str | map | null", "local_files_only": "bool",
    "allow_remote_files": "bool", "trust_remote_code": "bool", "load_in_4bit": "bool", "load_in_8bit": "bool",
    "pretrained_model_name_or_path": "str", "revision": "str | null", "cache_dir": "str | null",
    "state_dict": "map | null", "proxies": "map | null", "from_tf": "bool", "force_download": "bool",
    "resume_download": "bool", "output_loading_info": "bool", "chat_template": "str | null",
}  # fmt: skip
"""KAITO's, of 0.3 and 0.12."""
DATA = {
    "dataset_path": "str | null", "dataset_extension": "str | null", "shuffle_dataset": "bool", "shuffle_seed": "int",
    "context_column": "str | null", "response_column": "str | null", "messages_column": "str | null",
    "train_test_split": "float",
}  # fmt: skip
"""KAITO's."""


def table() -> dict[str, dict[str, str]]:
    """Section → key → kinds."""
    return {
        "ModelConfig": MODEL,
        "QuantizationConfig": _of_parameters(BitsAndBytesConfig.__init__),
        "LoraConfig": _of_fields(LoraConfig),
        "TrainingArguments": {**_of_fields(SFTConfig), **dict.fromkeys(DROPPED, ANYTHING)},
        "DatasetConfig": DATA,
        "DataCollator": _of_fields(DataCollatorForLanguageModeling),
    }


def text() -> str:
    """The file."""
    head = "# Made by python -m scripts.training_keys from the libraries; kinds as in presets/training_keys.py.\n"
    return head + yaml.safe_dump({name: dict(sorted(keys.items())) for name, keys in table().items()}, sort_keys=False)


def _of_fields(of: Any) -> dict[str, str]:
    hints = typing.get_type_hints(of)
    return {each.name: _joined(_kinds(hints[each.name])) for each in dataclasses.fields(of) if each.init}


def _of_parameters(of: Any) -> dict[str, str]:
    """Of a function without annotations: by the defaults, None for anything."""
    named = [each for each in inspect.signature(of).parameters.values() if each.default is not each.empty]
    return {each.name: ANYTHING if each.default is None else SCALARS[type(each.default)] for each in named}


def _kinds(hint: Any) -> set[str]:
    if hint in SCALARS:
        return {SCALARS[hint]}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(each) for each in inner))
    if origin is typing.Literal:
        return _choices(inner)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {f"={each.value}" for each in hint}
    return {_container(origin or hint)}


def _choices(values: Sequence[Any]) -> set[str]:
    """Values of a Literal. One of peft's is the pattern of a word, not the word: then any text may stand there."""
    free = any(isinstance(each, str) and "[" in each for each in values)
    return {f"={each}" if isinstance(each, str) and not free else SCALARS[type(each)] for each in values}


def _container(kind: Any) -> str:
    if not isinstance(kind, type):
        return ANYTHING
    if dataclasses.is_dataclass(kind) or issubclass(kind, Mapping):
        return "map"
    return "list" if issubclass(kind, list | tuple | set) else ANYTHING


def _joined(kinds: set[str]) -> str:
    """An enumeration's own values say more than that they are text."""
    named = any(kind.startswith("=") for kind in kinds)
    return " | ".join(sorted(kinds - {"str"} if named else kinds))


if __name__ == "__main__":
    TABLE.write_text(text())
