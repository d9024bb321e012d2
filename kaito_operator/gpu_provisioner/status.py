"""What a Machine says of itself: Karpenter's conditions in their order, its node, and the Events of what changed."""

from datetime import datetime
from typing import Any

from kaito_operator.api.conditions import Condition, Truth, merged
from kaito_operator.api.kinds import NODECLAIM
from kaito_operator.gpu_provisioner.errors import UNAVAILABLE
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.plan import Event, Manifest, Report

PREFIX = "Machine"
"""What Karpenter put before the names of a Machine's steps; a NodeClaim's have none."""
STEPS = ("Launched", "Registered", "Initialized")
READY = "Ready"
WAITING = ("MachineNotLaunched", "NodeNotFound", "NodeNotReady")
"""Why a Machine's step waits when an earlier one is not done, by the number of those that are."""
AWAITING = ("AwaitingReconciliation", "object is awaiting reconciliation")
"""The same for any step of a NodeClaim; KAITO skips conditions with this reason."""
PROGRESS = {
    "Creating",
    "KnownEphemeralTaintsExist",
    "Launching",
    "NodeNotFound",
    "NodeNotReady",
    "OperationInProgress",
    "Queued",
    "ResourceNotRegistered",
    "StartupTaintsExist",
    "Terminating",
}
"""Reasons with which nothing is wrong; every other one is a failure, and gets a Warning."""
OF_THE_NODE = ("nodeName", "providerID", "capacity", "allocatable")


def step_types(kind: str) -> tuple[str, ...]:
    """The condition types of the steps, in their order."""
    return STEPS if kind == NODECLAIM.kind else tuple(f"{PREFIX}{step}" for step in STEPS)


def standing(kind: str, passed: int, reason: str, message: str) -> list[Condition]:
    """All conditions: ``passed`` steps True, the next open with the reason, those after it waiting, and Ready.

    What is open is False on a Machine and Unknown on a NodeClaim, as Karpenter of their times has it. KAITO 0.2 stops
    asking where a Machine's step says UNAVAILABLE and not a word more; Ready says why.
    """
    types, claim = step_types(kind), kind == NODECLAIM.kind
    still: Truth = "Unknown" if claim else "False"
    step_says = UNAVAILABLE if not claim and message.startswith(UNAVAILABLE) else message
    done = [Condition(type, "True", step) for type, step in zip(types[:passed], STEPS, strict=False)]
    if passed == len(types):
        return [*done, Condition(READY, "True", READY)]
    why = AWAITING if claim else (WAITING[passed], "")
    return [
        *done,
        Condition(types[passed], still, reason, step_says),
        *(Condition(type, still, *why) for type in types[passed + 1 :]),
        Condition(READY, still, reason, message),
    ]


def leaving(seen: Observed, message: str) -> list[Condition]:
    """Ready False for the deletion; the steps stay as they were."""
    steps = ((step, seen.conditions[step]) for step in step_types(seen.subject.ref.kind) if step in seen.conditions)
    kept = [Condition(step, c["status"], c.get("reason", ""), c.get("message", "")) for step, c in steps]
    return [*kept, Condition(READY, "False", "Terminating", message)]


def report(seen: Observed, conditions: list[Condition], *, now: datetime) -> tuple[Report, ...]:
    """The status, if it is another than before. A missing node's last word is kept until it is replaced."""
    before, kind = seen.machine.get("status") or {}, seen.subject.ref.kind
    generation = seen.subject.generation if kind == NODECLAIM.kind else None
    replaced = (
        any(c.type == step_types(kind)[0] and c.status != "True" for c in conditions) and not seen.subject.deleting
    )
    kept = {} if replaced else {key: before[key] for key in OF_THE_NODE if key in before}
    status = {
        **(kept if seen.node is None else _of(seen.node)),
        "conditions": merged(before.get("conditions") or (), conditions, generation=generation, now=now),
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
    failed = condition.type == READY and condition.status != "True" and condition.reason not in PROGRESS
    if failed and condition.reason != before.get("reason"):
        return Event(seen.subject.ref, seen.subject.uid, "Warning", condition.reason, condition.message)
    return None
