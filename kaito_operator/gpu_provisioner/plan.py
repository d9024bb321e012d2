"""What one Machine needs next: gates in Karpenter's order: finalizer, Launched, Registered, Initialized, Ready."""

from dataclasses import dataclass
from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.conditions import moment
from kaito_operator.gpu_provisioner.agent_pool import NotMappable, agent_pool, instance_type, owner_tags
from kaito_operator.gpu_provisioner.cloud import STUCK, AgentPool
from kaito_operator.gpu_provisioner.farewell import farewell
from kaito_operator.gpu_provisioner.nodes import claiming, not_initialized
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.status import STEPS, events, report, standing
from kaito_operator.plan import Apply, CreateInCloud, DeleteInCloud, Finalizer, Manifest, Plan

ASKED, LAUNCHED, REGISTERED, INITIALIZED = range(4)
"""How many of the steps are done."""
LAUNCH, REGISTRATION = STEPS[0], STEPS[1]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take; all in seconds."""

    gone: float
    launch: float
    registration: float


def plan(seen: Observed, now: datetime, *, cluster: str, limits: Limits) -> Plan:
    """The next writes for one Machine; empty when all is as wanted."""
    if seen.subject.deleting:
        return farewell(seen, now, cluster=cluster, gone_seconds=limits.gone)
    if not seen.has_finalizer:
        return Plan(seen.subject, finalizer=Finalizer.ADD)
    pool, owner = seen.pool.pool, owner_tags(seen.machine, cluster=cluster)
    if pool is None or not pool.bears(owner):
        return _launching(seen, now, cluster=cluster)
    if pool.state == "Deleting":
        return _going(seen, now)
    hopeless = _hopeless(seen, pool, now, limits=limits)
    if hopeless is not None:
        return _again(seen, now, DeleteInCloud(pool.name, owner, etag=pool.etag), hopeless)
    if seen.node is None:
        return _reported(seen, now, *_not_joined(seen, pool), look_again=_patience(seen, pool, now, limits=limits))
    return _joined(seen, now, seen.node)


def _launching(seen: Observed, now: datetime, *, cluster: str) -> Plan:
    """No pool of ours is known: ask for it, unless a no still holds."""
    if seen.pool.nothing and _is_true(seen, LAUNCH):
        return Plan(seen.subject)  # we have just started; the first LIST will say what became of it
    try:
        create = CreateInCloud(seen.subject.ref.name, agent_pool(seen.machine, cluster=cluster, now=now))
    except NotMappable as impossible:
        return _reported(seen, now, ASKED, "InvalidMachine", str(impossible))
    refused = seen.pool.create_refused
    if refused is None:
        return _reported(seen, now, ASKED, "Launching", "asking for the agent pool", cloud=(create,))
    told = (refused.refusal.reason, refused.refusal.message)
    if now < refused.until:
        return _reported(seen, now, ASKED, *told, look_again=(refused.until - now).total_seconds())
    return _reported(seen, now, ASKED, *told, cloud=(create,))


def _going(seen: Observed, now: datetime) -> Plan:
    """Its pool is being deleted, by us because it was hopeless, or by somebody else. Then another is asked for."""
    if seen.conditions.get(LAUNCH, {}).get("status") == "False":
        return Plan(seen.subject)  # it says why already
    return _reported(seen, now, ASKED, "PoolDeleted", "agent pool is being deleted, and not by gpu-provisioner")


def _again(seen: Observed, now: datetime, step: DeleteInCloud, why: tuple[str, str]) -> Plan:
    """The pool goes, so that another can be tried; unless a no still holds."""
    refused = seen.pool.delete_refused
    if refused is not None and now < refused.until:
        return _reported(seen, now, ASKED, *why, look_again=(refused.until - now).total_seconds())
    return _reported(seen, now, ASKED, *why, cloud=(step,))


def _hopeless(seen: Observed, pool: AgentPool, now: datetime, *, limits: Limits) -> tuple[str, str] | None:
    """Why the pool goes before the next try: the cloud gave up on it, or it took too long.

    One with a node is left alone: a change that failed, such as an upgrade, makes a pool Failed whose node works on.
    """
    if seen.nodes:
        return None
    if pool.state in STUCK:
        problem = pool.problem
        return (problem.reason, problem.message) if problem else ("LaunchFailed", f"agent pool is {pool.state}")
    patience = _patience(seen, pool, now, limits=limits)
    if patience is None or patience > 0:
        return None
    if pool.state == "Succeeded":
        return "RegistrationTimeout", f"no node has joined in {limits.registration:g} s since its agent pool Succeeded"
    return "LaunchTimeout", f"agent pool is {pool.state} {limits.launch:g} s after it was asked for"


def _patience(seen: Observed, pool: AgentPool, now: datetime, *, limits: Limits) -> float | None:
    """Seconds that are left for the pool or its node to come; None where nothing is waited for, or no clock runs."""
    if seen.nodes:
        return None
    if pool.state != "Succeeded":
        since = None if _is_true(seen, LAUNCH) else pool.asked_at
        return None if since is None else limits.launch - (now - since).total_seconds()
    launched, unregistered = _turned(seen, LAUNCH, "True"), _turned(seen, REGISTRATION, "False")
    if launched is None or unregistered is None:
        return None  # this pass writes the time from which on it counts
    # The conditions may still tell of the pool before this one.
    since = max(launched, unregistered, pool.asked_at or launched)
    return limits.registration - (now - since).total_seconds()


def _turned(seen: Observed, step: str, status: str) -> datetime | None:
    """Since when the condition has this status; None if it has another."""
    condition = seen.conditions.get(step, {})
    since = condition.get("lastTransitionTime")
    return moment(since) if since and condition["status"] == status else None


def _not_joined(seen: Observed, pool: AgentPool) -> tuple[int, str, str]:
    if pool.state != "Succeeded":
        return ASKED, "Creating", f"agent pool {pool.state}"
    if seen.nodes:
        names = ", ".join(node["metadata"]["name"] for node in seen.nodes)
        return LAUNCHED, "MultipleNodesFound", f"agent pool of one node has {names}"
    return LAUNCHED, "NodeNotFound", "agent pool Succeeded; its node has not joined yet"


def _joined(seen: Observed, now: datetime, node: Manifest) -> Plan:
    """The node is there: claim it, then wait until it is ready and clean."""
    why = not_initialized(node, seen.machine)
    claim = claiming(node, seen.subject, initialized=why is None)
    if why is not None:
        return _reported(seen, now, REGISTERED, *why, apply=claim)
    return _reported(seen, now, INITIALIZED, "", "", apply=claim)


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
    """The plan, with the status and the events that go with it."""
    conditions = standing(passed, reason, message)
    return Plan(
        seen.subject,
        apply=(*_typed(seen), *apply),
        cloud=cloud,
        report=report(seen, conditions, now=now),
        events=events(seen, conditions),
        look_again=look_again,
    )


def _typed(seen: Observed) -> tuple[Apply, ...]:
    """The Machine's Type column is its instance-type label."""
    size, ref = instance_type(seen.machine), seen.subject.ref
    if not size or (seen.machine["metadata"].get("labels") or {}).get(labels.INSTANCE_TYPE) == size:
        return ()
    labelled = {"name": ref.name, "labels": {labels.INSTANCE_TYPE: size}}
    return (Apply({"apiVersion": ref.api_version, "kind": ref.kind, "metadata": labelled}, uid=seen.subject.uid),)


def _is_true(seen: Observed, step: str) -> bool:
    return bool(seen.conditions.get(step, {}).get("status") == "True")
