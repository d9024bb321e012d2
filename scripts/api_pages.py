"""docs/reference/workspace.md: every field of a Workspace, made from its CRD, so that both say the same."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kaito_operator.api.crd import WORKSPACE, definition

PAGE = Path(__file__).parent.parent / "docs/reference/workspace.md"
INTRODUCTION = """# Workspace

Made from the API's models by `make reference`; `kubectl explain workspace` says the same in a cluster. There is no
`spec`: `resource`, `inference` and `tuning` stand at the top level, as in KAITO. What a field may not be is refused by
`kubectl apply`; what needs the catalogue, such as a machine that is too small, by the operator. **Bold** fields have to
be given.

"""
RULES = "x-kubernetes-validations"


def page() -> str:
    """The page."""
    version = definition(WORKSPACE)["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    names = definition(WORKSPACE)["spec"]["names"]
    kind = f"`{WORKSPACE.kind.api_version}`, kind `{names['kind']}`, short names {', '.join(names['shortNames'])}.\n"
    parts = [INTRODUCTION, kind, _rules(schema)]
    for name, field in schema["properties"].items():
        if name not in {"apiVersion", "kind", "metadata"}:
            rows = "".join(f"| {row} |\n" for row in _rows(name, field, required=name in schema.get("required", ())))
            parts.append(f"\n## {name}\n\n| field | type | |\n|---|---|---|\n{rows}")
    columns = ", ".join(
        column["name"].upper() for column in version["additionalPrinterColumns"] if "priority" not in column
    )
    parts.append(f"\n## Columns of kubectl get\n\nNAME, {columns}; with `-o wide` also the reason and the endpoint.\n")
    return "".join(parts)


def _rules(schema: Mapping[str, Any]) -> str:
    messages = [f"* {_text(rule['message'])}\n" for rule in schema.get(RULES, ())]
    return "\n" + "".join(messages) if messages else ""


def _rows(path: str, field: Mapping[str, Any], *, required: bool) -> Iterator[str]:
    """The field and those below it, each once."""
    name = f"**`{path}`**" if required else f"`{path}`"
    told = [_text(field.get("description", "")), *(f"Rule: {_text(rule['message'])}." for rule in field.get(RULES, ()))]
    yield f"{name} | {_type(field)} | {' '.join(filter(None, told))}"
    inner = field.get("items", field)
    step = f"{path}[]" if "items" in field else path
    for below, one in inner.get("properties", {}).items():
        yield from _rows(f"{step}.{below}", one, required=below in inner.get("required", ()))


def _type(field: Mapping[str, Any]) -> str:
    if "items" in field:
        return f"list of {_type(field['items'])}"
    if values := field.get("enum"):
        return " or ".join(f"`{value}`" for value in values)
    if isinstance(field.get("additionalProperties"), Mapping):
        return f"map of {_type(field['additionalProperties'])}"
    limits = [f"{word} {field[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in field]
    kind = field.get("type", "number or text" if field.get("x-kubernetes-int-or-string") else "any")
    return " ".join([kind, *limits])


def _text(text: str) -> str:
    """In one line, and nothing that would end a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").rstrip(".") + ("." if text.rstrip().endswith(".") else "")
