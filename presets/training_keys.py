"""The keys of training_config.yaml and what may stand after each: data, so that no torch is needed to judge a file.

``presets/training/keys.yaml`` is made from the libraries of this version by ``python -m scripts.training_keys``.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).parent / "training" / "keys.yaml"
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "max_seq_length": "max_length",
}
"""TrainingArguments of earlier versions → of this one."""
DROPPED = ("logging_dir", "overwrite_output_dir", "tokenizer", "tokenizer_name_or_path", "report_to", "output_dir")
"""TrainingArguments without effect here: the runner decides where results go, and tells its progress itself."""
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "map": "keys and values",
}
ANYTHING = "any"
NOTHING = "null"
CHOICE = "="
"""Before a word that may stand there, in the place of any text."""
MOST_CHOICES = 6

Kinds = frozenset[str]
KINDS: Mapping[type, Kinds] = {
    bool: frozenset({"bool"}),
    int: frozenset({"int", "float"}),
    float: frozenset({"float"}),
    str: frozenset({"str"}),
    list: frozenset({"list"}),
    dict: frozenset({"map"}),
    type(None): frozenset({NOTHING}),
}
"""What YAML reads → its kinds. A whole number is a number too."""


@cache
def known() -> Mapping[str, Mapping[str, Kinds]]:
    """Section → key → the kinds its value may be of: those of WORDS, ``null``, ``any`` or ``=word``."""
    table = yaml.safe_load(TABLE.read_bytes())
    return {
        section: {key: frozenset(kinds.split(" | ")) for key, kinds in keys.items()} for section, keys in table.items()
    }


def problems(section: str, given: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be meant, each with what to write instead."""
    keys = _keys(section)
    for key, value in given.items():
        name = _current(section, key)
        if name not in keys:
            nearest = get_close_matches(str(key), keys, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            yield f"{section}.{key}: there is no such key{hint}"
        elif not _kind(read(value, keys[name])) & keys[name]:
            yield f"{section}.{key}: write {_words(keys[name], instead_of=value)}"


def normalised(section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The section under the names of this version, its values as the libraries take them; what is wrong stays so."""
    keys = _keys(section)
    renamed = {_current(section, str(key)): value for key, value in given.items()}
    return {key: read(value, keys.get(key, frozenset({ANYTHING}))) for key, value in renamed.items()}


def read(value: Any, kinds: Kinds) -> Any:
    """A value as it is meant. ``2e-4`` is text to YAML 1.1 and a number to everybody else; KAITO takes its way over a
    command line, so that numbers and truth in quotes work there too."""
    if value is False and "=no" in kinds:
        return "no"  # YAML 1.1 again
    if not isinstance(value, str) or kinds & {"str", ANYTHING, CHOICE + value}:
        return value
    if "bool" in kinds and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not NUMBER.fullmatch(value):
        return value
    if "int" in kinds and value.lstrip("+-").isdecimal():
        return int(value)
    return float(value) if "float" in kinds else value


def _kind(value: Any) -> Kinds:
    """All kinds that a value is of."""
    choice = {CHOICE + value} if isinstance(value, str) else set()
    return KINDS.get(type(value), frozenset()) | choice | {ANYTHING}


def _words(kinds: Kinds, *, instead_of: Any) -> str:
    told = [word for kind, word in WORDS.items() if kind in kinds and not (kind == "int" and "float" in kinds)]
    choices = sorted(kind.removeprefix(CHOICE) for kind in kinds if kind.startswith(CHOICE))
    near = get_close_matches(str(instead_of), choices, n=MOST_CHOICES)
    shown = near or choices[:MOST_CHOICES]
    return " or ".join([*told, *shown] if len(shown) < 3 else [*told, f"one of {', '.join(shown)}"])


def _keys(section: str) -> Mapping[str, Kinds]:
    return known()[section]


def _current(section: str, key: str) -> str:
    return RENAMED.get(key, key) if section == "TrainingArguments" else key
