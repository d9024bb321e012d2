"""What the models of the API are made of: bounded strings, and rules that the API server itself checks (CEL)."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Short = Annotated[str, StringConstraints(max_length=63)]
Name = Annotated[str, StringConstraints(max_length=253)]
Line = Annotated[str, StringConstraints(max_length=1024)]
Free = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""An object that another API describes; kept as it is."""


class ApiModel(BaseModel):
    """A part of an object as JSON has it; what the schema does not know is pruned, here as by the API server."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


def cel(rule: str, says: str, *, also_without_old: bool = False) -> dict[str, Any]:
    """One rule that the API server checks. ``also_without_old``: it speaks of ``oldSelf``, and creation has none.

    A rule asks ``has`` before it reads, also of required fields: what fails for an object that was stored under older
    rules is forgiven while the field stays as it was, but a rule that cannot be evaluated at all is not.
    """
    return {"rule": rule, "message": says, **({"optionalOldSelf": True} if also_without_old else {})}


def checked(*rules: Mapping[str, Any]) -> dict[str, Any]:
    """Rules as a model's or a field's ``json_schema_extra`` takes them."""
    return {"x-kubernetes-validations": [dict(rule) for rule in rules]}


def matching(pattern: str, says: str) -> tuple[AfterValidator, FieldInfo]:
    """What to annotate a string with that must match, checked here and by the API server in the same words."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("pattern", "{says}", {"says": says})
        return value

    escaped = pattern.replace("\\", "\\\\")
    return AfterValidator(check), Field(json_schema_extra=checked(cel(f"self.matches('^({escaped})$')", says)))


def immutable(what: str) -> dict[str, Any]:
    """The rule of a field that stays as it was created."""
    return checked(cel("self == oldSelf", f"{what} cannot be changed: delete the Workspace and create another"))


Condition = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "One observed condition (metav1.Condition).",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "What it is about."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "reason": {"type": "string", "maxLength": 1024, "description": "Why, in one word for programs."},
                "message": {"type": "string", "maxLength": 32768, "description": "Why, and what to do, for people."},
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When the status last changed.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "The metadata.generation it was worked out for.",
                },
            },
        }
    ),
]
Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_TAG, _DIGEST = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", r"@sha256:[a-f0-9]{64}"
Image = Annotated[
    Name,
    *matching(
        rf"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[A-Za-z0-9._-]+)*({_TAG})?({_DIGEST})?",
        "write an image as registry/repository:tag",
    ),
]
"""Upper case is allowed, though registries refuse it: the README of KAITO has it in its placeholders."""
TaggedImage = Annotated[
    Name,
    *matching(
        rf"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[A-Za-z0-9._-]+)+({_TAG}|({_TAG})?{_DIGEST})",
        "write an image as registry/repository:tag",
    ),
]
LabelValue = Annotated[
    Short,
    *matching(
        r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
        "a label's value has letters, digits, '-', '_' and '.', a letter or digit at both ends",
    ),
]
