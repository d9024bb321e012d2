"""pydantic → the structural schema that an API server accepts; whatever it would refuse or drop is an error here."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

KEPT = {
    "type", "description", "default", "enum", "format", "pattern", "required", "nullable",
    "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "maxProperties",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations", "x-kubernetes-int-or-string",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip
KNOWN = {"title", "$defs", "const", "properties", "items", "additionalProperties"}


class NotStructural(Exception):
    """The model says something that has no place in a CRD."""


def structural(model: type[BaseModel]) -> Schema:
    """The schema of a model with every reference resolved. Raises NotStructural."""
    whole = model.model_json_schema()
    return _converted(whole, whole.get("$defs", {}), at=model.__name__)


def _converted(found: Mapping[str, Any], definitions: Mapping[str, Any], *, at: str) -> Schema:
    found = _resolved(found, definitions, at=at)
    out: Schema = {key: value for key, value in found.items() if key in KEPT and not _empty_default(key, value)}
    if "const" in found:
        out["enum"] = [found["const"]]
    if "properties" in found:
        parts = found["properties"].items()
        out["properties"] = {name: _converted(part, definitions, at=f"{at}.{name}") for name, part in parts}
    if "items" in found:
        out["items"] = _converted(found["items"], definitions, at=f"{at}[]")
    if "additionalProperties" in found:
        out |= _additional(found, definitions, at=at)
    if unknown := found.keys() - KEPT - KNOWN:
        raise NotStructural(f"{at}: {min(unknown)} has no place in a structural schema")
    if "type" not in out:
        raise NotStructural(f"{at}: no type")
    return out


def _empty_default(key: str, value: Any) -> bool:
    """A default that says nothing; stored in every object it would only be noise."""
    return key == "default" and (value in (None, [], "") or isinstance(value, dict))


def _additional(found: Mapping[str, Any], definitions: Mapping[str, Any], *, at: str) -> Schema:
    """A map keeps the schema of its values; a free-form object must say that it is one."""
    if found.get("x-kubernetes-preserve-unknown-fields"):
        return {}
    if found["additionalProperties"] is True:
        raise NotStructural(f"{at}: a free-form object must say x-kubernetes-preserve-unknown-fields")
    return {"additionalProperties": _converted(found["additionalProperties"], definitions, at=f"{at}{{}}")}


def _resolved(found: Mapping[str, Any], definitions: Mapping[str, Any], *, at: str) -> Mapping[str, Any]:
    """Follows $ref; of "this or null" takes this, for an absent field is how a CRD says null."""
    while True:
        rest = {k: v for k, v in found.items() if k not in ("$ref", "anyOf", "allOf")}
        if "$ref" in found:
            found = {**definitions[found["$ref"].rpartition("/")[2]], **rest}
        elif "anyOf" in found:
            options = [o for o in found["anyOf"] if o.get("type") != "null"]
            if len(options) != 1:
                raise NotStructural(f"{at}: a union")
            found = {**options[0], **{k: v for k, v in rest.items() if not (k == "default" and v is None)}}
        elif "allOf" in found:
            raise NotStructural(f"{at}: allOf")
        else:
            return found
