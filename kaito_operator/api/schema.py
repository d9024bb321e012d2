"""pydantic models → structural schemas, which are all that an API server takes for a custom resource.

It refuses much of what pydantic says. What is not known here is an error, never left out in silence; and every string,
list and map must have a bound, or a rule in CEL could not be priced.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

KEPT = {
    "description",
    "default",
    "enum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "pattern",
    "required",
    "type",
    "uniqueItems",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}
"""Keywords that mean the same to pydantic and to the API server."""
WRITTEN = {"$defs", "$ref", "additionalProperties", "anyOf", "items", "properties", "title"}
"""Keywords that are rewritten."""
BOUNDS = {"string": "maxLength", "array": "maxItems"}


class Unsupported(Exception):
    """A model says something that an API server would refuse or forget; the message has its path."""


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema as an API server takes it. Raises Unsupported."""
    schema = model.model_json_schema(by_alias=True)
    return _converted(schema, definitions=schema.get("$defs", {}), path=model.__name__)


def _converted(schema: Mapping[str, Any], *, definitions: Mapping[str, Any], path: str) -> dict[str, Any]:
    schema = _plain(schema, definitions=definitions, path=path)
    if unknown := schema.keys() - KEPT - WRITTEN:
        raise Unsupported(f"{path}: {', '.join(sorted(unknown))}")

    def inner(part: Mapping[str, Any], name: str) -> dict[str, Any]:
        return _converted(part, definitions=definitions, path=f"{path}.{name}")

    converted = {key: value for key, value in schema.items() if key in KEPT and (key != "default" or _says(value))}
    if "properties" in schema:
        converted["properties"] = {name: inner(part, name) for name, part in schema["properties"].items()}
    if "items" in schema:
        converted["items"] = inner(schema["items"], "items")
    if isinstance(schema.get("additionalProperties"), Mapping):
        converted["additionalProperties"] = inner(schema["additionalProperties"], "*")
    _must_be_bounded(converted, path=path)
    return converted


def _plain(schema: Mapping[str, Any], *, definitions: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The schema with its reference inlined, "or null" dropped (a missing field is that), and int-or-string named."""
    if "$ref" in schema:
        named = definitions[schema["$ref"].rpartition("/")[2]]
        own = {key: value for key, value in schema.items() if key != "$ref"}
        return _plain(_both(named, own), definitions=definitions, path=path)
    if "anyOf" not in schema:
        return dict(schema)
    own = {key: value for key, value in schema.items() if key != "anyOf"}
    choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
    if sorted(choice.get("type", "") for choice in choices) == ["integer", "string"]:
        return {**own, "x-kubernetes-int-or-string": True}
    if len(choices) != 1:
        raise Unsupported(f"{path}: a choice of {len(choices)} types")
    return _plain(_both(choices[0], own), definitions=definitions, path=path)


def _both(named: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a type says and what the field of that type adds; the rules of both hold."""
    rules = [*named.get("x-kubernetes-validations", ()), *own.get("x-kubernetes-validations", ())]
    return {**named, **own, **({"x-kubernetes-validations": rules} if rules else {})}


def _says(default: object) -> bool:
    """Whether a default is worth storing in every object: nothing is not, and the parts of an object have their own."""
    return default is not None and default not in ([], "") and not isinstance(default, Mapping)


def _must_be_bounded(schema: Mapping[str, Any], *, path: str) -> None:
    bound = BOUNDS.get(schema.get("type", ""))
    if bound and not schema.keys() & {bound, "enum", "format"}:
        raise Unsupported(f"{path}: no {bound}")
    if "additionalProperties" in schema and "maxProperties" not in schema:
        raise Unsupported(f"{path}: no maxProperties")
    if "type" not in schema and "x-kubernetes-int-or-string" not in schema:
        raise Unsupported(f"{path}: no type")
