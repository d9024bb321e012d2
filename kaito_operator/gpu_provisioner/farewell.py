"""What a Machine that is being deleted needs next: pods leave, its pool goes, then its nodes, then its finalizer."""

import re
from datetime import datetime, timedelta

from kaito_operator.api.conditions import moment
from kaito_operator.gpu_provisioner.agent_pool import owner_tags
from kaito_operator.gpu_provisioner.drain import drained
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.nodes import cordoning, deleting, is_held_by_others, is_leaving, releasing
from kaito_operator.gpu_provisioner.observe import Observed, last_seen, nobodys, to_empty
from kaito_operator.gpu_provisioner.status import READY, leaving, report
from kaito_operator.plan import DeleteInCloud, Event, Finalizer, LookInCloud, Plan

FOLLOWED_SECONDS = 30.0
"""What is asked of the cloud anyway is looked at when it changes; this is for an answer that never comes."""

DRAIN_SECONDS = 5.0
"""Between two looks at the pods of a node that is being emptied (Karpenter's minimum drain time)."""
LONG_DRAIN = timedelta(minutes=2)
"""After which a drain that is not done is told as an Event."""


def farewell(seen: Observed, now: datetime, *, cluster: str, limits: Limits) -> Plan:
    """The pool goes by name, also when it was never seen, nor a node of it.

    The finalizers, of the node and of the Machine, are dropped when the cloud has answered 404, and does so again
    ``limits.gone`` later.
    """
    if not seen.has_finalizer:
        return Plan(seen.subject)
    name, known = seen.subject.ref.name, seen.pool
    refused = known.delete_refused
    if refused is not None and now < refused.until:
        return _told(seen, now, refused.refusal.message, look_again=(refused.until - now).total_seconds())
    if known.pool is not None and known.pool.state == "Deleting":
        return _told(seen, now, last_seen(seen, "agent pool Deleting"), look_again=FOLLOWED_SECONDS)
    if known.pool is None and known.absent_since is None and nobodys(seen):
        return Plan(seen.subject, cloud=(LookInCloud(name),))  # whether they are ours, and to be emptied
    if (draining := _emptied(seen, now, limits=limits)) is not None:
        return draining
    if known.absent_since is None:
        step = DeleteInCloud(name, owner_tags(seen.machine, cluster=cluster))
        return _told(seen, now, "deleting the agent pool", cloud=(step,))
    left = limits.gone - (now - known.absent_since).total_seconds()
    if left > 0 or not all(map(is_leaving, seen.nodes)):
        return Plan(seen.subject, delete=deleting(seen.nodes), look_again=max(left, 0.0) + 0.1)
    last = Finalizer.KEEP if any(map(is_held_by_others, seen.nodes)) else Finalizer.DROP
    free = releasing(seen.nodes)
    return Plan(seen.subject, release=free, finalizer=last, gone_in_cloud=(name,))


def _emptied(seen: Observed, now: datetime, *, limits: Limits) -> Plan | None:
    """The plan while pods or volumes are still on a node; None once the pool may go."""
    nodes, asked = to_empty(seen), moment(seen.machine["metadata"]["deletionTimestamp"])
    if not nodes:
        return None
    grace = grace_seconds(seen, limits=limits)
    names = {node["metadata"]["name"] for node in nodes}
    attached = [each for each in seen.attachments if each["spec"]["nodeName"] in names]
    by = None if grace is None else asked + timedelta(seconds=grace)
    drain = drained(seen.pods, attached, now, by=by)
    cordon = tuple(step for node in nodes for step in cordoning(node, seen.subject))
    if not drain.waiting and not cordon:
        return None
    late = bool(drain.waiting) and now - asked > LONG_DRAIN
    message = f"{'failed to drain the node' if late else 'draining'}: {drain.waiting}"
    conditions = leaving(seen, message)
    return Plan(
        seen.subject,
        apply=cordon,
        evict=drain.evict,
        report=report(seen, conditions, now=now) if drain.waiting else (),
        events=_failed(seen, message) if late else (),
        look_again=DRAIN_SECONDS,
    )


def _failed(seen: Observed, message: str) -> tuple[Event, ...]:
    """Once for each thing that is waited for: the condition of before says whether it has been told."""
    if seen.conditions.get(READY, {}).get("message") == message:
        return ()
    return (Event(seen.subject.ref, seen.subject.uid, "Warning", "FailedDraining", message),)


def grace_seconds(seen: Observed, *, limits: Limits) -> float | None:
    """How long the pods may take to leave; None is for ever."""
    told = str((seen.machine.get("spec") or {}).get("terminationGracePeriod") or "")
    units = {"s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+)([smh])", told)
    return float(sum(int(number) * units[unit] for number, unit in parts)) if parts else limits.drain


def _told(
    seen: Observed,
    now: datetime,
    message: str,
    *,
    cloud: tuple[DeleteInCloud, ...] = (),
    look_again: float | None = None,
) -> Plan:
    conditions = leaving(seen, message)
    return Plan(seen.subject, cloud=cloud, report=report(seen, conditions, now=now), look_again=look_again)
