"""What one Machine needs next: gates in Karpenter's order: finalizer, Launched, Registered, Initialized, Ready."""

from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.conditions import is_true, moment
from kaito_operator.api.kinds import NODE
from kaito_operator.fleet import is_ready, patience
from kaito_operator.gpu_provisioner.agent_pool import NotMappable, agent_pool, capacity_type, instance_type, owner_tags
from kaito_operator.gpu_provisioner.cloud import SETTLED, STUCK, AgentPool
from kaito_operator.gpu_provisioner.farewell import farewell
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.nodes import (
    bears_our_mark,
    claiming,
    deleting,
    is_leaving,
    not_initialized,
    releasing,
    startup_tainting,
)
from kaito_operator.gpu_provisioner.observe import Observed, last_seen
from kaito_operator.gpu_provisioner.status import events, report, standing, step_types
from kaito_operator.plan import (
    Apply,
    CloudStep,
    CreateInCloud,
    Delete,
    DeleteInCloud,
    Event,
    Finalizer,
    Holding,
    LookInCloud,
    Manifest,
    Patch,
    Plan,
    Release,
    Selection,
)

ASKED, LAUNCHED, REGISTERED, INITIALIZED = range(4)
"""How many of the steps are done; and the number of the next."""
REMAINS_SECONDS = 10.0
"""Between two looks at the node of a pool that is gone, until Kubernetes notices."""
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
    hopeless = _hopeless(seen, pool, now, limits=limits)
    if hopeless is None and seen.given_up is not None:
        return _with_its_node(seen, seen.given_up, pool, now)
    hopeless = hopeless or _broken(seen, now, limits=limits)
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
    if (remains := _remains(seen, now)) is not None:
        return remains
    try:
        create = CreateInCloud(seen.subject.ref.name, agent_pool(seen.machine, cluster=cluster, now=now))
    except NotMappable as impossible:
        return _reported(seen, now, ASKED, "InvalidMachine", str(impossible))
    refused = seen.pool.create_refused
    told = ("Launching", "asking for the agent pool")
    if refused is not None:
        told = (refused.refusal.reason, refused.refusal.message)
    if refused is not None and now < refused.until:
        return _reported(seen, now, ASKED, *told, look_again=(refused.until - now).total_seconds())
    if _left(seen):
        return _looking(seen, now)
    return _reported(seen, now, ASKED, *told, cloud=(create,), holding=_no_node_of_ours(seen))


def _looking(seen: Observed, now: datetime) -> Plan:
    """There is a node of ours, so there was a pool: is it still there? The live look of a create would be too late."""
    name = seen.subject.ref.name
    if seen.pool.pool is None:
        return Plan(seen.subject, cloud=(LookInCloud(name),))
    told = f"agent pool {name} is another by now, and node {_left(seen)[0]['metadata']['name']} of the first is left"
    return _reported(seen, now, ASKED, "NameTaken", told)


def _left(seen: Observed) -> list[Manifest]:
    """The nodes under whose names no pool may be asked for: all that ``_no_node_of_ours`` would find, or it would find
    them again and again."""
    return [node for node in seen.nodes if bears_our_mark(node, seen.subject)]


def _no_node_of_ours(seen: Observed) -> Holding:
    """What is asked live before a pool is asked for, for the same reason as ``_remains`` has."""
    claimed = {labels.AGENT_POOL: seen.subject.ref.name, labels.REGISTERED: "true"}
    return Holding(Selection(NODE.api_version, NODE.kind, claimed), frozenset())


def _remains(seen: Observed, now: datetime) -> Plan | None:
    """Our nodes of a pool that the cloud says is gone go before the next is asked for: its machine would have the same
    name, and take a Node that is on its way out for its own."""
    ours = _left(seen)
    if seen.pool.absent_since is None or not ours:
        return None
    dark = [node for node in ours if not is_ready(node)]
    name = seen.subject.ref.name
    steps, free = deleting(dark), releasing(dark)
    if steps or free:
        return Plan(seen.subject, delete=steps, release=free, gone_in_cloud=(name,) if free else ())
    waits = f"its agent pool is gone; node {ours[0]['metadata']['name']} has to go before the next is asked for"
    if _turned(seen, ASKED, done=False) is not None:
        return Plan(seen.subject, look_again=REMAINS_SECONDS)  # it says why already
    return _reported(seen, now, ASKED, "PoolDeleted", waits, look_again=REMAINS_SECONDS)


def _with_its_node(seen: Observed, node: Manifest, pool: AgentPool, now: datetime) -> Plan:
    """Somebody deletes the node, and so the Machine, as with Karpenter; if it was Azure, the cloud will say so."""
    name = node["metadata"]["name"]
    if pool.state not in SETTLED:
        told = last_seen(seen, f"node {name} is being deleted, and agent pool {pool.state}")
        return _reported(seen, now, LAUNCHED, "NodeDeleted", told)
    refused = seen.pool.delete_refused
    if refused is not None and now < refused.until:
        left = (refused.until - now).total_seconds()
        return _reported(seen, now, LAUNCHED, "NodeDeleted", refused.refusal.message, look_again=left)
    ref, uid = seen.subject.ref, seen.subject.uid
    told = f"node {name} is being deleted, and its Machine with it"
    return Plan(
        seen.subject,
        there_in_cloud=(ref.name,),
        delete=(Delete(ref, uid, gives_up=True),),
        events=(Event(ref, uid, "Normal", "NodeDeleted", told),),
    )


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
    if pool.was_taken_back and all(map(is_leaving, seen.nodes)):
        return "SpotEvicted", "Azure has taken the spot machine back; another is asked for"
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
    if tainting := startup_tainting(node, seen.machine, seen.subject):
        why = why or ("StartupTaintsExist", "the startup taints are put onto the node")
        return _reported(seen, now, REGISTERED, *why, patch=tainting)
    claim = claiming(node, seen.subject, initialized=why is None)
    free = releasing(seen.swapped)
    if why is not None and patience is not None and patience <= 0:
        told = f"{seen.fleet.unready} of {seen.fleet.nodes} nodes are not Ready: none is replaced"
        why, patience = ("NodeRepairBlocked", told), REPAIR_BLOCKED
    if why is not None:
        return _reported(seen, now, REGISTERED, *why, apply=claim, release=free, look_again=patience)
    return _reported(seen, now, INITIALIZED, "", "", apply=claim, release=free)


def _reported(
    seen: Observed,
    now: datetime,
    passed: int,
    reason: str,
    message: str,
    *,
    apply: tuple[Apply, ...] = (),
    patch: tuple[Patch, ...] = (),
    release: tuple[Release, ...] = (),
    cloud: tuple[CloudStep, ...] = (),
    holding: Holding | None = None,
    look_again: float | None = None,
) -> Plan:
    """The plan, with the status and the events that go with it."""
    conditions = standing(seen.subject.ref.kind, passed, reason, message)
    return Plan(
        seen.subject,
        apply=(*_typed(seen), *apply),
        patch=patch,
        cloud=cloud,
        holding=holding,
        release=release,
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
    return is_true(seen.conditions, step_types(seen.subject.ref.kind)[step])
