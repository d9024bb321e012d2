"""What a Machine says of itself: Karpenter's conditions in their order, its node, and the Events of what changed."""

from datetime import datetime
from typing import Any

from kaito_operator.api.conditions import Condition, merged
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.plan import Event, Manifest, Report

STEPS = ("MachineLaunched", "MachineRegistered", "MachineInitialized")
READY = "Ready"
WAITING = ("MachineNotLaunched", "NodeNotFound", "NodeNotReady")
"""Why a step waits when an earlier one is not done, by the number of those that are."""
PROGRESS = {
    "Creating",
    "KnownEphemeralTaintsExist",
    "Launching",
    "NodeNotFound",
    "NodeNotReady",
    "OperationInProgress",
    "ResourceNotRegistered",
    "StartupTaintsExist",
    "Terminating",
}
"""Reasons with which nothing is wrong; every other one is a failure, and gets a Warning."""
OF_THE_NODE = ("nodeName", "providerID", "capacity", "allocatable")


def standing(passed: int, reason: str, message: str) -> list[Condition]:
    """All conditions: ``passed`` steps True, the next False with the reason, those after it waiting, and Ready."""
    done = [Condition(step, "True", step.removeprefix("Machine")) for step in STEPS[:passed]]
    if passed == len(STEPS):
        return [*done, Condition(READY, "True", READY)]
    rest = [Condition(step, "False", WAITING[passed]) for step in STEPS[passed + 1 :]]
    return [
        *done,
        Condition(STEPS[passed], "False", reason, message),
        *rest,
        Condition(READY, "False", reason, message),
    ]


def leaving(seen: Observed, message: str) -> list[Condition]:
    """Ready False for the deletion; the steps stay as they were."""
    steps = ((step, seen.conditions[step]) for step in STEPS if step in seen.conditions)
    kept = [Condition(step, c["status"], c.get("reason", ""), c.get("message", "")) for step, c in steps]
    return [*kept, Condition(READY, "False", "Terminating", message)]


def report(seen: Observed, conditions: list[Condition], *, now: datetime) -> tuple[Report, ...]:
    """The status, if it is another than before. A missing node's last word is kept until it is replaced."""
    before = seen.machine.get("status") or {}
    replaced = any(c.type == STEPS[0] and c.status == "False" for c in conditions) and not seen.subject.deleting
    kept = {} if replaced else {key: before[key] for key in OF_THE_NODE if key in before}
    status = {
        **(kept if seen.node is None else _of(seen.node)),
        "conditions": merged(before.get("conditions") or (), conditions, generation=None, now=now),
    }
    return () if status == before else (Report(seen.subject.ref, seen.subject.uid, status),)


def _of(node: Manifest) -> dict[str, Any]:
    status = node.get("status") or {}
    return {
        "nodeName": node["metadata"]["name"],
        "providerID": node["spec"]["providerID"],
        "capacity": status.get("capacity") or {},
        "allocatable": status.get("allocatable") or {},
    }


def events(seen: Observed, conditions: list[Condition]) -> tuple[Event, ...]:
    """One for each condition that turned True, in Karpenter's words, and one for a new reason to fail."""
    told = ((condition, seen.conditions.get(condition.type, {})) for condition in conditions)
    return tuple(event for condition, before in told if (event := _event(seen, condition, before)) is not None)


def _event(seen: Observed, condition: Condition, before: Manifest) -> Event | None:
    if condition.status == "True" and before.get("status") != "True":
        message = f"Status condition transitioned, Type: {condition.type}, Status: -> True"
        return Event(seen.subject.ref, seen.subject.uid, "Normal", condition.reason, message)
    failed = condition.type == READY and condition.status == "False" and condition.reason not in PROGRESS
    if failed and condition.reason != before.get("reason"):
        return Event(seen.subject.ref, seen.subject.uid, "Warning", condition.reason, condition.message)
    return None
