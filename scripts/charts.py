"""README.md and values.schema.json of each chart, made from the keys, the defaults and the comments of its values.yaml.

A comment above a key or behind it is what the key means. A value in braces or brackets is free: it is Kubernetes' own.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).parent.parent / "charts"
NAMES = ("workspace", "gpu-provisioner")
LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]\w*):(?P<rest>.*)")
CHOICES = {
    "cloudProviderName": ["azure", "aws"],
    "modelFiles": ["auto", "baked", "kaito", "volume", "hub"],
    "nodeProvisioner": ["machine", "nodeclaim"],
    "settings.objects": ["machines", "nodeclaims"],
    "webhook.failurePolicy": ["Ignore", "Fail"],
    "image.pullPolicy": ["Always", "IfNotPresent", "Never"],
    "logging.format": ["json", "text"],
    "logging.level": ["DEBUG", "INFO", "WARNING", "ERROR"],
}
PATTERNS = {"image.digest": r"^(sha256:[0-9a-f]{64})?$", "serviceMonitor.interval": r"^([0-9]+(ms|s|m|h))+$"}
MINIMA = {"replicaCount": 0, "webhook.port": 1024, "leaderElection.leaseSeconds": 1, "resyncSeconds": 1}
WORDS = {"tuning.downloadAllow", "plainHttpRegistries"}
"""Lists of strings; other lists hold objects of Kubernetes."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value that can be set: where it stands, its default, what it means."""

    path: str
    default: Any
    meaning: str


def values(chart: str) -> list[Value]:
    """All values of a chart in the order of its values.yaml."""
    text = (CHARTS / chart / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    found: list[Value] = []
    path: list[str] = []
    above: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip("# "))
        elif (match := LINE.match(line)) is not None:
            path = [*path[: len(match["indent"]) // 2], match["key"]]
            value, _, behind = match["rest"].partition(" # ")
            if value.strip():
                told = " ".join(above) if above and not match["indent"] else behind.strip()
                found.append(Value(".".join(path), _at(defaults, path), told or behind.strip()))
            above = []
        else:
            above = []
    return found


def readme(chart: str) -> str:
    """The chart's README.md."""
    about = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
    rows = "".join(
        f"| `{v.path}` | `{json.dumps(v.default, ensure_ascii=False)}` | {_escaped(v.meaning)} |\n"
        for v in values(chart)
    )
    return (
        f"# {chart}\n\n{about['description']}.\n\nMade from `values.yaml` by `make reference`; `helm install` checks "
        f"what is set by `values.schema.json`.\n\n| value | default | meaning |\n|---|---|---|\n{rows}"
    )


def schema(chart: str) -> str:
    """The chart's values.schema.json. A value that the chart does not know is refused: mostly it is misspelt."""
    root: dict[str, Any] = _section()
    root["properties"]["global"] = {"type": "object"}  # Helm hands it to every chart
    for value in values(chart):
        *sections, key = value.path.split(".")
        at = root
        for section in sections:
            at = at["properties"].setdefault(section, _section())
        at["properties"][key] = {"description": value.meaning, **_type(value)}
    return (
        json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **root}, indent=2, ensure_ascii=False) + "\n"
    )


def write() -> None:
    """Writes both files of both charts."""
    for chart in NAMES:
        (CHARTS / chart / "README.md").write_text(readme(chart))
        (CHARTS / chart / "values.schema.json").write_text(schema(chart))


def _escaped(text: str) -> str:
    """Angle brackets would be taken for HTML."""
    return text.replace("<", "\\<")


def _section() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _type(value: Value) -> dict[str, Any]:
    match value.default:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": MINIMA.get(value.path, 0)}
        case list():
            return {"type": "array", "items": {"type": "string" if value.path in WORDS else "object"}}
        case dict():
            return {"type": "object"}
        case _ if value.path in CHOICES:
            return {"enum": CHOICES[value.path]}
        case _ if value.path in PATTERNS:
            return {"type": "string", "pattern": PATTERNS[value.path]}
        case _:
            return {"type": "string"}


def _at(defaults: Any, path: list[str]) -> Any:
    for key in path:
        defaults = defaults[key]
    return defaults
