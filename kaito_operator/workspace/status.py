"""The status of a Workspace: one report a pass, and an event for each transition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api.conditions import Condition, merged
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Event, Report
from kaito_operator.workspace.finding import Finding, passed, waits_for, wrong

SILENT = (ConditionType.READY.value,)
"""Conditions whose transitions are told already by another's event."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the gates found, in their order. ``stopped``: why none of them was even tried."""

    machine: Finding
    resource: Finding
    inference: Finding
    nodes: tuple[str, ...] = ()
    wanted_nodes: int = 0
    endpoint: str = ""
    stopped: Finding | None = None

    @property
    def steps(self) -> tuple[tuple[ConditionType, Finding], ...]:
        """Each gate with its condition."""
        return (
            (ConditionType.MACHINE_READY, self.machine),
            (ConditionType.RESOURCE_READY, self.resource),
            (ConditionType.INFERENCE_READY, self.inference),
        )

    @property
    def leaf(self) -> Finding | None:
        """The first gate that is not passed; None if the model answers."""
        return self.stopped or next((found for _, found in self.steps if not found.passed), None)

    @property
    def look_again(self) -> float | None:
        """Seconds until something may be seen differently without any event."""
        return min((found.look_again for _, found in self.steps if found.look_again is not None), default=None)


def stopped(why: Finding) -> Standing:
    """The standing of a Workspace that is not worked on."""
    behind = waits_for(ConditionType.WORKSPACE_READY)
    return Standing(behind, behind, behind, stopped=why)


def conditions(standing: Standing) -> tuple[Condition, ...]:
    """One for each gate, and the sum of them twice: by KAITO's name and by everybody's."""
    total = _total(standing.leaf)
    return (
        *(found.condition(type) for type, found in standing.steps),
        total.condition(ConditionType.WORKSPACE_READY),
        total.condition(ConditionType.READY),
    )


def _total(leaf: Finding | None) -> Finding:
    """True or False, never in between; False has the reason of the leaf, if there is anything wrong."""
    if leaf is None:
        return passed(Reason.WORKSPACE_READY, "the model answers")
    return wrong(leaf.reason if leaf.status == "False" else Reason.WORKSPACE_PENDING, leaf.message)


def report(
    workspace: Workspace,
    wanted: Sequence[Condition],
    *,
    nodes: Sequence[str],
    wanted_nodes: int,
    endpoint: str,
    now: datetime,
) -> tuple[Report, ...]:
    """The status to write, if it is another than the one seen. Every field of ours is always in it."""
    seen = workspace.status
    told: dict[str, Any] = {
        "observedGeneration": workspace.generation,
        "conditions": merged(workspace.conditions.values(), wanted, generation=workspace.generation, now=now),
        "workerNodes": sorted(nodes),
        "targetNodeCount": wanted_nodes,
        "endpoint": endpoint,
    }
    return () if _is_told(told, seen, workspace.conditions) else (Report(workspace.ref, workspace.uid, told),)


def _is_told(told: Mapping[str, Any], seen: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the status seen says all of it. Fields and conditions of others are theirs."""
    same_conditions = all(before.get(entry["type"]) == entry for entry in told["conditions"])
    return same_conditions and all(seen.get(key) == value for key, value in told.items() if key != "conditions")


def events(workspace: Workspace, wanted: Sequence[Condition]) -> tuple[Event, ...]:
    """One for each status that changes, and for each new reason to be False. What only waits for another is silent."""
    before = workspace.conditions
    return tuple(
        Event(workspace.ref, workspace.uid, _type(each), each.reason, f"{each.type}: {each.message}")
        for each in _told_once(wanted)
        if _is_news(before.get(each.type, {}), each)
    )


def _told_once(wanted: Sequence[Condition]) -> list[Condition]:
    """Without the sums where a gate says the same."""
    sums = {ConditionType.WORKSPACE_READY.value, *SILENT}
    causes = {each.message for each in wanted if each.type not in sums}
    return [each for each in wanted if each.type not in SILENT and not (each.type in sums and each.message in causes)]


def _is_news(before: Mapping[str, Any], now: Condition) -> bool:
    if now.reason == Reason.WAITING.value:
        return False
    turned = before.get("status") != now.status
    return turned or (now.status == "False" and before.get("reason") != now.reason)


def _type(condition: Condition) -> str:
    return "Warning" if condition.status == "False" else "Normal"
