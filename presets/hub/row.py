"""A model that was looked up, as JSON and back: without what follows from the rest of its row."""

from typing import Any

from pydantic import TypeAdapter

from presets.catalog import Model

DERIVED = {"states_need", "disk_gib", "total_memory_gib", "readiness_seconds", "arguments"}
"""What follows from the rest of a row, by rules that may change with the next version."""
_MODEL = TypeAdapter(Model)


def as_row(model: Model) -> dict[str, Any]:
    """What was looked up, and nothing that was worked out from it."""
    row: dict[str, Any] = _MODEL.dump_python(model, mode="json", exclude=DERIVED, exclude_defaults=True)
    return row


def of_row(row: object) -> Model:
    """The model. Raises pydantic's ValidationError."""
    return _MODEL.validate_python(row)


def of_json(text: bytes) -> Model:
    """The same out of a file. Raises pydantic's ValidationError."""
    return _MODEL.validate_json(text)
