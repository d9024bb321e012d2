"""Plans of the Workspace controller at noon, with the real catalogue."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from kaito_operator.api.sources import Source
from kaito_operator.plan import Plan
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.plan import plan
from presets.catalog import load_catalog
from presets.prices.price import known
from tests.support.builders import NOON, seen_of

CATALOG = replace(load_catalog(), prices=known("azure", "eastus"))
INSTALLATION = Installation(
    "registry.example.com/presets", "1.2.3", model_files=Source.BAKED, tuning_storage_class="kept"
)


def planned(
    workspace: Mapping[str, Any],
    *others: Mapping[str, Any],
    now: datetime = NOON,
    installation: Installation = INSTALLATION,
) -> Plan:
    """What is planned for a Workspace in a cluster that holds the other objects."""
    return plan(seen_of(workspace, *others), now, catalog=CATALOG, installation=installation)


def conditions(todo: Plan) -> dict[str, tuple[str, str, str]]:
    """Status, reason and message of the conditions that a plan reports, by type."""
    entries = todo.report[0].status["conditions"] if todo.report else []
    return {entry["type"]: (entry["status"], entry["reason"], entry["message"]) for entry in entries}


def applied(todo: Plan, kind: str) -> list[Mapping[str, Any]]:
    """The manifests of one kind that a plan applies."""
    return [step.manifest for step in todo.apply if step.manifest["kind"] == kind]


def deleted(todo: Plan) -> list[str]:
    """What a plan deletes."""
    return [str(step.ref) for step in todo.delete]
