"""How a command prints what it found: text for people, JSON and YAML for programs."""

import json
from enum import StrEnum
from typing import Any


class Format(StrEnum):
    """What ``--output`` may be."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


def printed(value: Any, format: Format) -> str:
    """A plain value as JSON on one line, or as YAML in the order in which it was made."""
    as_json = json.dumps(value)
    if format is Format.JSON:
        return as_json
    import yaml

    text: str = yaml.safe_dump(json.loads(as_json), sort_keys=False, width=120)  # YAML knows no enums
    return text.rstrip("\n")
