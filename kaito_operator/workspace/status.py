"""The status of a Workspace: five conditions of which the first False one names the cause, one report a pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kaito_operator.api.conditions import Condition, by_type, merged
from kaito_operator.plan import Event, Report
from kaito_operator.workspace.diagnosis import Cause
from kaito_operator.workspace.observe import Observed

TRANSITIONS = {
    "MachineReady": "installNodePluginsSuccess",
    "ResourceReady": "workspaceResourceStatusSuccess",
    "InferenceReady": "WorkspaceInferenceStatusSuccess",
    "WorkspaceReady": "workspaceReady",
    "Ready": "workspaceReady",
}
"""The conditions in the order in which they turn True, with KAITO's reason for True."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a pass found: how far the Workspace is and what stops it there."""

    passed: int
    """How many of the steps MachineReady, ResourceReady, InferenceReady are passed; 3 is ready."""
    cause: Cause | None = None
    nodes: Sequence[str] = ()
    wanted_nodes: int = 0
    endpoint: str = ""
    extra: tuple[Condition, ...] = field(default=())


STEPS = ("MachineReady", "ResourceReady", "InferenceReady")


def conditions(told: Told) -> list[Condition]:
    """Passed steps are True, the next one has the cause, later ones wait; the sums are False until all is True."""
    out = [Condition(step, "True", TRANSITIONS[step]) for step in STEPS[: told.passed]]
    if told.cause is None:
        return [
            *out,
            *(Condition(sum_, "True", TRANSITIONS[sum_]) for sum_ in ("WorkspaceReady", "Ready")),
            *told.extra,
        ]
    cause = told.cause
    if told.passed < len(STEPS):
        out.append(Condition(STEPS[told.passed], cause.status, cause.reason, cause.message))
        waiting = f"waits for {STEPS[told.passed]}"
        out += (Condition(step, "False", cause.reason, waiting) for step in STEPS[told.passed + 1 :])
    out += (Condition(sum_, "False", cause.reason, cause.message) for sum_ in ("WorkspaceReady", "Ready"))
    return [*out, *told.extra]


def report(seen: Observed, told: Told, *, now: datetime) -> tuple[Report, ...]:
    """The status to be written, if it is another than the one seen."""
    wanted: dict[str, Any] = {
        "observedGeneration": seen.subject.generation,
        "targetNodeCount": told.wanted_nodes,
        "workerNodes": sorted(told.nodes),
        **({"endpoint": told.endpoint} if told.endpoint else {}),
        "conditions": merged(
            seen.status.get("conditions") or (), conditions(told), generation=seen.subject.generation, now=now
        ),
    }
    before = {key: value for key, value in seen.status.items() if value not in ([], "", 0)}
    if before == {key: value for key, value in wanted.items() if value not in ([], "", 0)}:
        return ()
    return (Report(seen.subject.ref, seen.subject.uid, wanted),)


def events(seen: Observed, told: Told) -> tuple[Event, ...]:
    """One for each condition that turned True or turns False with a new reason; progress is no event."""
    before = by_type(seen.status.get("conditions") or ())
    out = []
    for condition in conditions(told):
        known = before.get(condition.type, {})
        if condition.type in ("Ready", *STEPS[told.passed + 1 :]):
            continue
        if condition.status == "True" and known.get("status") != "True":
            out.append(Event(seen.subject.ref, seen.subject.uid, "Normal", condition.type, f"{condition.type} is True"))
        elif condition.status == "False" and known.get("reason") != condition.reason and condition.type in STEPS:
            out.append(Event(seen.subject.ref, seen.subject.uid, "Warning", condition.reason, condition.message))
    return tuple(out)
