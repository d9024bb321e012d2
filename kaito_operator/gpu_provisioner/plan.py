"""What one Machine needs next: gates in Karpenter's order: finalizer, Launched, Registered, Initialized, Ready."""

from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.conditions import moment
from kaito_operator.fleet import is_ready, patience
from kaito_operator.gpu_provisioner.agent_pool import NotMappable, agent_pool, capacity_type, instance_type, owner_tags
from kaito_operator.gpu_provisioner.cloud import STUCK, AgentPool
from kaito_operator.gpu_provisioner.farewell import farewell
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.nodes import claiming, is_claimed, not_initialized
from kaito_operator.gpu_provisioner.observe import Observed, last_seen
from kaito_operator.gpu_provisioner.status import events, report, standing, step_types
from kaito_operator.plan import Apply, CreateInCloud, Delete, DeleteInCloud, Finalizer, Manifest, Plan, Ref

ASKED, LAUNCHED, REGISTERED, INITIALIZED = range(4)
"""How many of the steps are done; and the number of the next."""
REPAIR_BLOCKED = 300.0
"""Seconds until the next look at a cluster that has lost many nodes (Karpenter's)."""


def plan(seen: Observed, now: datetime, *, cluster: str, limits: Limits) -> Plan:
    """The next writes for one Machine; empty when all is as wanted."""
    if seen.subject.deleting:
        return farewell(seen, now, cluster=cluster, limits=limits)
    if not seen.has_finalizer:
        return Plan(seen.subject, finalizer=Finalizer.ADD)
    pool, owner = seen.pool.pool, owner_tags(seen.machine, cluster=cluster)
    if pool is None or not pool.bears(owner):
        return _launching(seen, now, cluster=cluster)
    if pool.state == "Deleting":
        return _going(seen, now)
    hopeless = _hopeless(seen, pool, now, limits=limits) or _broken(seen, now, limits=limits)
    if hopeless is not None:
        return _again(seen, now, DeleteInCloud(pool.name, owner, etag=pool.etag), hopeless)
    if seen.node is None:
        return _reported(seen, now, *_not_joined(seen, pool), look_again=_patience(seen, pool, now, limits=limits))
    left = patience(seen.node, now, seconds=limits.repair if _is_true(seen, LAUNCHED) else None)
    return _joined(seen, now, seen.node, patience=left)


def _launching(seen: Observed, now: datetime, *, cluster: str) -> Plan:
    """No pool of ours is known: ask for it, unless a no still holds."""
    if seen.pool.nothing and _is_true(seen, ASKED):
        return Plan(seen.subject)  # we have just started; the first LIST will say what became of it
    if remains := _remains(seen):
        return Plan(seen.subject, delete=remains)
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


def _remains(seen: Observed) -> tuple[Delete, ...]:
    """Our nodes of a pool that the cloud says is gone: another pool of the name must not be taken to have them."""
    if seen.pool.absent_since is None:
        return ()
    ours = (node for node in seen.nodes if is_claimed(node, seen.subject) and not is_ready(node))
    return tuple(Delete(Ref.of(n), n["metadata"]["uid"]) for n in ours if "deletionTimestamp" not in n["metadata"])


def _going(seen: Observed, now: datetime) -> Plan:
    """Its pool is being deleted, by us because it was hopeless, or by somebody else. Then another is asked for."""
    if _turned(seen, ASKED, done=False) is not None:
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
    if pool.spot and pool.count == 0 and pool.state == "Succeeded":
        return "SpotEvicted", "Azure has taken the spot machine back; another is asked for"
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
        since = None if _is_true(seen, ASKED) else pool.asked_at
        return None if since is None else limits.launch - (now - since).total_seconds()
    launched, unregistered = _turned(seen, ASKED, done=True), _turned(seen, LAUNCHED, done=False)
    if launched is None or unregistered is None:
        return None  # this pass writes the time from which on it counts
    # The conditions may still tell of the pool before this one.
    since = max(launched, unregistered, pool.asked_at or launched)
    return limits.registration - (now - since).total_seconds()


def _turned(seen: Observed, step: int, *, done: bool) -> datetime | None:
    """Since when the step is done, or not; None if it is the other way."""
    condition = seen.conditions.get(step_types(seen.subject.ref.kind)[step], {})
    since = condition.get("lastTransitionTime")
    return moment(since) if since and (condition["status"] == "True") == done else None


def _not_joined(seen: Observed, pool: AgentPool) -> tuple[int, str, str]:
    if pool.state != "Succeeded":
        return ASKED, "Creating", last_seen(seen, f"agent pool {pool.state}")
    if seen.nodes:
        names = ", ".join(node["metadata"]["name"] for node in seen.nodes)
        return LAUNCHED, "MultipleNodesFound", f"agent pool of one node has {names}"
    return LAUNCHED, "NodeNotFound", "agent pool Succeeded; its node has not joined yet"


def _broken(seen: Observed, now: datetime, *, limits: Limits) -> tuple[str, str] | None:
    """Why the pool goes though its node has joined: it has long been not Ready, and it is one of few."""
    if seen.node is None or not _is_true(seen, LAUNCHED) or seen.fleet.ails:
        return None
    left = patience(seen.node, now, seconds=limits.repair)
    if left is None or left > 0:
        return None
    name = seen.node["metadata"]["name"]
    return "NodeRepair", f"node {name} has not been Ready for {limits.repair:g} s: it is replaced"


def _joined(seen: Observed, now: datetime, node: Manifest, *, patience: float | None) -> Plan:
    """The node is there: claim it, then wait until it is ready and clean.

    ``patience``: the seconds after which it is replaced; a cluster with many such nodes keeps it beyond that.
    """
    why = not_initialized(node, seen.machine)
    claim = claiming(node, seen.subject, initialized=why is None)
    if why is not None and patience is not None and patience <= 0:
        told = f"{seen.fleet.unready} of {seen.fleet.nodes} nodes are not Ready: none is replaced"
        return _reported(seen, now, REGISTERED, "NodeRepairBlocked", told, apply=claim, look_again=REPAIR_BLOCKED)
    if why is not None:
        return _reported(seen, now, REGISTERED, *why, apply=claim, look_again=patience)
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
    conditions = standing(seen.subject.ref.kind, passed, reason, message)
    return Plan(
        seen.subject,
        apply=(*_typed(seen), *apply),
        cloud=cloud,
        report=report(seen, conditions, now=now),
        events=events(seen, conditions),
        look_again=look_again,
    )


def _typed(seen: Observed) -> tuple[Apply, ...]:
    """The columns Type, Capacity and Zone are labels."""
    size, ref = instance_type(seen.machine), seen.subject.ref
    zone = "" if seen.node is None else (seen.node["metadata"].get("labels") or {}).get(labels.ZONE, "")
    wanted = {labels.INSTANCE_TYPE: size, labels.CAPACITY_TYPE: capacity_type(seen.machine), labels.ZONE: zone}
    wanted = {key: value for key, value in wanted.items() if value}
    if not size or wanted.items() <= (seen.machine["metadata"].get("labels") or {}).items():
        return ()
    labelled = {"name": ref.name, "labels": wanted}
    return (Apply({"apiVersion": ref.api_version, "kind": ref.kind, "metadata": labelled}, uid=seen.subject.uid),)


def _is_true(seen: Observed, step: int) -> bool:
    return bool(seen.conditions.get(step_types(seen.subject.ref.kind)[step], {}).get("status") == "True")
