"""What one Machine needs next: gates in Karpenter's order: finalizer, Launched, Registered, Initialized, Ready."""

from datetime import datetime, timedelta
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import Condition, by_type, merged
from kaito_operator.gpu_provisioner.agent_pool import NotMappable, agent_pool, instance_type, owner_tags
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.plan import (
    Apply,
    CreateInCloud,
    Delete,
    DeleteInCloud,
    Event,
    Finalizer,
    Manifest,
    Plan,
    Ref,
    Report,
)

STEPS = ("MachineLaunched", "MachineRegistered", "MachineInitialized")
STUCK = ("Failed", "Canceled")
EPHEMERAL_TAINTS = (
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.cloudprovider.kubernetes.io/uninitialized",
)
"""Taints that Kubernetes itself takes off once the node works (Karpenter's KnownEphemeralTaints)."""


class Limits:
    """How long things may take; all in seconds."""

    def __init__(self, *, gone: float, launch: float, registration: float) -> None:
        self.gone = timedelta(seconds=gone)
        self.launch = timedelta(seconds=launch)
        self.registration = timedelta(seconds=registration)


def plan(seen: Observed, now: datetime, *, cluster: str, limits: Limits) -> Plan:
    """The next writes for one Machine; empty when all is as wanted."""
    if seen.subject.deleting:
        return _deleting(seen, now, cluster=cluster, limits=limits)
    if not seen.has_finalizer:
        return Plan(seen.subject, finalizer=Finalizer.ADD)
    try:
        wanted = agent_pool(seen.machine, cluster=cluster)
    except NotMappable as impossible:
        return _reported(seen, now, 0, "InvalidMachine", str(impossible))
    pool = seen.pool.pool
    if pool is None:
        return _launching(seen, now, wanted)
    if pool.state in STUCK:
        # Azure gave up on it; a failed pool still counts and may hold a machine, so it goes before the next try.
        again = DeleteInCloud(pool.name, owner_tags(seen.machine, cluster=cluster))
        return _reported(seen, now, 0, "LaunchFailed", pool.problem or f"agent pool is {pool.state}", cloud=(again,))
    if seen.node is None:
        return _reported(seen, now, *_not_joined(pool.state), look_again=5.0)
    return _joined(seen, now, seen.node)


def _not_joined(state: str) -> tuple[int, str, str]:
    if state == "Succeeded":
        return 1, "NodeNotFound", "agent pool Succeeded; its node has not joined yet"
    return 0, "Creating", f"agent pool {state}"


def _launching(seen: Observed, now: datetime, wanted: dict[str, Any]) -> Plan:
    """No pool is known: ask for it, unless a no still holds."""
    refused = seen.pool.refused
    create = CreateInCloud(seen.subject.ref.name, wanted)
    if refused is None:
        return _reported(seen, now, 0, "Launching", "asking for the agent pool", cloud=(create,))
    told = (refused.refusal.reason, refused.refusal.message)
    if now < refused.until:
        return _reported(seen, now, 0, *told, look_again=(refused.until - now).total_seconds())
    return _reported(seen, now, 0, *told, cloud=(create,))


def _joined(seen: Observed, now: datetime, node: Manifest) -> Plan:
    """The node is there: claim it, then wait until it is ready and clean."""
    claim = _claim(seen, node)
    why = _not_initialized(seen, node)
    if why is not None:
        return _reported(seen, now, 2, *why, apply=claim)
    return _reported(seen, now, 3, "", "", apply=claim + _typed(seen))


def _not_initialized(seen: Observed, node: Manifest) -> tuple[str, str] | None:
    status = node.get("status") or {}
    if by_type(status.get("conditions") or ()).get("Ready", {}).get("status") != "True":
        return "NodeNotReady", f"node {node['metadata']['name']} is not Ready"
    taints = {t["key"] for t in node["spec"].get("taints") or ()}
    if ephemeral := sorted(taints & set(EPHEMERAL_TAINTS)):
        return "KnownEphemeralTaintsExist", f"taint {ephemeral[0]} is still on the node"
    startup = {t["key"] for t in seen.machine["spec"].get("startupTaints") or ()}
    if left := sorted(taints & startup):
        return "StartupTaintsExist", f"taint {left[0]} is still on the node"
    return None


def _claim(seen: Observed, node: Manifest) -> tuple[Apply, ...]:
    """Karpenter's labels and an owner reference, so that people see whose node it is."""
    ready = _not_initialized(seen, node) is None
    wanted = {labels.REGISTERED: "true", **({labels.INITIALIZED: "true"} if ready else {})}
    meta = node["metadata"]
    owners = [o["uid"] for o in meta.get("ownerReferences") or ()]
    if wanted.items() <= (meta.get("labels") or {}).items() and seen.subject.uid in owners:
        return ()
    return (
        Apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": meta["name"],
                    "labels": wanted,
                    "ownerReferences": [
                        {
                            "apiVersion": seen.subject.ref.api_version,
                            "kind": seen.subject.ref.kind,
                            "name": seen.subject.ref.name,
                            "uid": seen.subject.uid,
                            "blockOwnerDeletion": True,
                        }
                    ],
                },
            },
            uid=meta["uid"],
        ),
    )


def _typed(seen: Observed) -> tuple[Apply, ...]:
    """The Machine's Type column is its instance-type label."""
    size = instance_type(seen.machine)
    if (seen.machine["metadata"].get("labels") or {}).get(labels.INSTANCE_TYPE) == size:
        return ()
    ref = seen.subject.ref
    labelled = {"name": ref.name, "labels": {labels.INSTANCE_TYPE: size}}
    return (Apply({"apiVersion": ref.api_version, "kind": ref.kind, "metadata": labelled}, uid=seen.subject.uid),)


def _deleting(seen: Observed, now: datetime, *, cluster: str, limits: Limits) -> Plan:
    """The pool goes by name, also when no node ever came; then its node; and the finalizer when all are gone."""
    if not seen.has_finalizer:
        return Plan(seen.subject)
    name, known = seen.subject.ref.name, seen.pool
    gone = known.pool is None and known.absent_since is not None
    if known.refused is not None and now < known.refused.until and not gone:
        told = known.refused.refusal
        return _told(seen, now, "Terminating", told.message, look_again=(known.refused.until - now).total_seconds())
    if known.pool is not None and known.pool.state == "Deleting":
        return _told(seen, now, "Terminating", "agent pool Deleting", look_again=30.0)
    if not gone:
        step = DeleteInCloud(name, owner_tags(seen.machine, cluster=cluster))
        return _told(seen, now, "Terminating", "deleting the agent pool", cloud=(step,))
    left = (known.absent_since or now) + limits.gone - now
    node = (Delete(Ref.of(seen.node), seen.node["metadata"]["uid"]),) if seen.node is not None else ()
    if left > timedelta(0) or node:
        return Plan(seen.subject, delete=node, look_again=max(left.total_seconds(), 0.0) + 0.1)
    return Plan(seen.subject, finalizer=Finalizer.DROP, gone_in_cloud=(name,))


def _reported(
    seen: Observed,
    now: datetime,
    passed: int,
    reason: str,
    message: str,
    *,
    apply: tuple[Apply, ...] = (),
    cloud: tuple[CreateInCloud | DeleteInCloud, ...] = (),
    look_again: float | None = None,
) -> Plan:
    """The plan with its status: ``passed`` steps True, the next False with the reason, the rest waiting for it."""
    waiting = ("MachineNotLaunched", "NodeNotFound", "NodeNotReady")
    conditions = [Condition(step, "True", step.removeprefix("Machine")) for step in STEPS[:passed]]
    if passed < len(STEPS):
        conditions.append(Condition(STEPS[passed], "False", reason, message))
        conditions += (Condition(step, "False", waiting[passed], "") for step in STEPS[passed + 1 :])
        conditions.append(Condition("Ready", "False", reason, message))
    else:
        conditions.append(Condition("Ready", "True", "Ready"))
    return Plan(
        seen.subject,
        apply=apply,
        cloud=cloud,
        report=_report(seen, conditions, now),
        events=_events(seen, conditions),
        look_again=look_again,
    )


def _told(
    seen: Observed,
    now: datetime,
    reason: str,
    message: str,
    *,
    cloud: tuple[CreateInCloud | DeleteInCloud, ...] = (),
    look_again: float | None = None,
) -> Plan:
    """The plan of a deletion, with Ready False and why; the other conditions stay as they were."""
    kept = [
        Condition(type_, c["status"], c.get("reason", ""), c.get("message", ""))
        for type_, c in seen.conditions.items()
        if type_ != "Ready"
    ]
    conditions = [*kept, Condition("Ready", "False", reason, message)]
    return Plan(seen.subject, cloud=cloud, report=_report(seen, conditions, now), look_again=look_again)


def _report(seen: Observed, conditions: list[Condition], now: datetime) -> tuple[Report, ...]:
    before = seen.machine.get("status") or {}
    node = seen.node
    wanted: dict[str, Any] = {
        **(
            {
                "nodeName": node["metadata"]["name"],
                "providerID": node["spec"]["providerID"],
                "capacity": (node.get("status") or {}).get("capacity") or {},
                "allocatable": (node.get("status") or {}).get("allocatable") or {},
            }
            if node is not None
            else {key: before[key] for key in ("nodeName", "providerID", "capacity", "allocatable") if key in before}
        ),
        "conditions": merged(before.get("conditions") or (), conditions, generation=None, now=now),
    }
    return () if wanted == before else (Report(seen.subject.ref, seen.subject.uid, wanted),)


def _events(seen: Observed, conditions: list[Condition]) -> tuple[Event, ...]:
    """One for each step that turned True, and one for a new reason to fail."""
    out = []
    for condition in conditions:
        known = seen.conditions.get(condition.type, {})
        if condition.status == "True" and known.get("status") != "True":
            told = f"Status condition transitioned, Type: {condition.type}, Status: -> True"
            out.append(Event(seen.subject.ref, seen.subject.uid, "Normal", condition.reason, told))
        elif condition.type == "Ready" and condition.reason in FAILURES and known.get("reason") != condition.reason:
            out.append(Event(seen.subject.ref, seen.subject.uid, "Warning", condition.reason, condition.message))
    return tuple(out)


FAILURES = {
    "QuotaExceeded", "SkuNotAvailable", "AllocationFailed", "SubnetFull", "ProviderNotRegistered",
    "AuthorizationFailed", "InvalidRequest", "LaunchFailed", "NameTaken", "InvalidMachine", "CreateLimit", "PoolLimit",
}  # fmt: skip
