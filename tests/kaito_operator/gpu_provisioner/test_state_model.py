"""Every state a Machine, its pool and its node can be in, driven through ``plan`` and a model of the cloud.

From each state, with what is seen up to three steps older than what is true, with a restart's empty memory and with a
fault of the cloud on the way, the controller reaches the wanted fixed point and stays there. Never is there a create
for a pool that is there or without our finalizer on the Machine, never is the finalizer dropped with the pool alive,
and a foreign pool and its node are never touched.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any

import pytest

from kaito_operator.api.conditions import by_type
from kaito_operator.gpu_provisioner.agent_pool import owner_tags
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.gpu_provisioner.known import Known
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.plan import CreateInCloud, Finalizer, Manifest, Plan, Ref, Subject
from tests.kaito_operator.gpu_provisioner.test_drain import a_pod
from tests.support.machines import a_machine, a_node

pytestmark = [pytest.mark.statemodel, pytest.mark.money]

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME = "ws0123456789"
LIMITS = Limits(gone=30, launch=60, registration=60)
SIZE = {"node.kubernetes.io/instance-type": "Standard_NC12s_v3"}
OURS = owner_tags(a_machine(), cluster="prod")
FOREIGN = {**OURS, "kaito.sh_machine-uid": "somebody"}
STATES = ("Creating", "Updating", "Succeeded", "Failed", "Canceled", "Deleting")
NODES = ("none", "not ready", "tainted", "ready")
STEPS = ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")
MOODS = (
    "fine",
    "create refused",
    "create's answer lost",
    "delete refused",
    "creation never ends",
    "node never joins",
    "the LIST hides what is going",
)
"""What the cloud does wrong, once. The last one takes a minute to delete, and does not list it meanwhile."""
LASTS = 6
"""Steps."""
UNKNOWN = Known()
NO = Refusal("CloudUnavailable", "no", 10.0)
LONG = 60
"""Steps of ten seconds within which everything has come to rest."""


@dataclass(frozen=True)
class World:
    """What is true, and what the controller remembers of the cloud."""

    now: datetime = NOON
    exists: bool = True
    deleting: bool = False
    finalizer: bool = False
    status: Mapping[str, Any] | None = None
    pool: AgentPool | None = None
    node: str = "none"
    claimed: bool = False
    known: Known = UNKNOWN
    mood: str = "fine"
    creates: int = 0
    cordoned: bool = False
    pods: int = 0
    """On the node, when it is claimed."""
    fresh: bool = True
    """Whether Machine and node are seen as they are."""
    other: Known = UNKNOWN
    """What a second controller remembers, whose turn is the next."""

    @property
    def foreign(self) -> bool:
        return self.pool is not None and not self.pool.bears(OURS)


def but(world: World, **changes: Any) -> World:
    """``dataclasses.replace``, which is a third of the time of all this, without its checks."""
    made = object.__new__(World)
    made.__dict__.update(world.__dict__)
    made.__dict__.update(changes)
    return made


class Violation(AssertionError):
    """A money rule was broken."""


Mutation = Callable[[Observed], Observed]


def observed(world: World, *, known: Known) -> Observed:
    status = dict(world.status) if world.status else None
    machine = a_machine(finalizer=world.finalizer, deleting=world.deleting, status=status, labels=SIZE)
    return Observed(
        machine=machine,
        subject=Subject(Ref.of(machine), "machine-uid", 1, world.deleting),
        has_finalizer=world.finalizer,
        conditions=by_type((status or {}).get("conditions") or ()),
        pool=known,
        nodes=_nodes(world.node, world.claimed, world.cordoned),
        pods=PODS[: world.pods],
    )


PODS = (a_pod("p0"), a_pod("p1"))


@cache
def _nodes(node: str, claimed: bool, cordoned: bool) -> tuple[Manifest, ...]:
    if node == "none":
        return ()
    marks = {"karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"} if claimed else {}
    marks |= {"node.kubernetes.io/exclude-from-external-load-balancers": "karpenter"} if cordoned else {}
    taints = ["node.kubernetes.io/not-ready"] if node == "tainted" else []
    owner = "machine-uid" if claimed else ""
    made = a_node(ready=node != "not ready", taints=taints, owner=owner, labels=marks)
    made["spec"]["unschedulable"] = cordoned
    return (made,)


# carry_out and the pools' door, with their second looks and in their order


def carried_out(todo: Plan, true: World) -> World:
    costs = bool(todo.cloud or todo.finalizer is not Finalizer.KEEP)
    if costs and todo.subject.deleting != true.deleting:
        return true  # the second look finds another Machine than the one planned for
    if todo.finalizer is Finalizer.ADD:
        true = but(true, finalizer=True)
    for applied in todo.apply:
        true = _applied(true, applied.manifest)
    if todo.evict:
        true = but(true, pods=0)
    for step in todo.cloud:
        true = _created(true) if isinstance(step, CreateInCloud) else _deleted(true, etag=step.etag)
    if todo.delete:
        true = but(true, node="none", claimed=False, cordoned=False, pods=0)
    for report in todo.report:
        true = but(true, status=report.status)
    return _dropped(todo, true) if todo.finalizer is Finalizer.DROP else true


def _applied(true: World, manifest: Manifest) -> World:
    if manifest["kind"] != "Node" or true.node == "none":
        return true
    if true.foreign and not true.claimed:
        raise Violation("the node of a foreign pool is claimed")
    if "spec" in manifest:
        return but(true, cordoned=True)
    return but(true, claimed=true.claimed or true.node == "ready")


def _looked(true: World) -> World:
    known = true.known.absent(now=true.now) if true.pool is None else true.known.seen(true.pool, now=true.now)
    return but(true, known=known)


def _created(true: World) -> World:
    true = _looked(true)
    if true.foreign:
        return but(true, known=true.known.no_create(NO, now=true.now))
    if true.pool is not None:
        return true  # adopted
    if not true.finalizer:
        raise Violation("a pool is asked for before the finalizer is on the Machine")
    true = but(true, known=true.known.asked())
    if true.mood == "create refused":
        return but(true, mood="fine", known=true.known.no_create(NO, now=true.now))
    pool = AgentPool(NAME, "Creating", etag=f"e{true.creates}", tags=OURS, asked_at=true.now)
    gone = {"node": "none", "claimed": False, "cordoned": False, "pods": 0}
    true = but(true, pool=pool, creates=true.creates + 1, **gone)
    if true.mood == "create's answer lost":
        return but(true, mood="fine", known=true.known.no_create(NO, now=true.now))
    return _looked(true)


def _deleted(true: World, *, etag: str) -> World:
    true = _looked(true)
    if true.pool is None or true.pool.state == "Deleting" or (etag and etag != true.pool.etag):
        return true
    if true.foreign:
        return but(true, known=true.known.no_delete(NO, now=true.now))
    if true.deleting and true.claimed and true.pods and true.fresh:
        raise Violation("a pool is deleted with pods on its node")
    if true.mood == "delete refused":
        return but(true, mood="fine", known=true.known.no_delete(NO, now=true.now))
    return _looked(but(true, pool=replace(true.pool, state="Deleting", etag="d")))


def _dropped(todo: Plan, true: World) -> World:
    if todo.gone_in_cloud != (NAME,):
        raise Violation("the finalizer is dropped without asking the cloud")
    if true.pool is not None:
        return _looked(true)  # the live look before the drop finds it
    since = true.known.absent_since
    if since is None or true.now - since < timedelta(seconds=30):
        raise Violation("the finalizer is dropped before the pool has been gone for long enough")
    return but(true, finalizer=False, exists=False)


def later(true: World) -> World:
    """The world goes on by ten seconds, and the LIST tells of it."""
    true = but(true, now=true.now + timedelta(seconds=10), pool=_next_pool(true))
    node = _next_node(true)
    true = but(true, node=node)
    if node == "none":
        true = but(true, claimed=False, cordoned=False, pods=0)
    if true.pool is None or true.pool.state in ("Deleting", "Succeeded"):
        true = but(true, mood="fine" if true.mood == "creation never ends" else true.mood)
    if true.pool is None and true.mood == MOODS[-1]:
        true = but(true, mood="fine")
    if true.known.pool is None and not (true.known.nothing and true.status):
        return true
    if true.pool is not None and true.pool.state == "Deleting" and true.mood == MOODS[-1]:
        return _listed_without(true)
    return _looked(true)


def _listed_without(true: World) -> World:
    """The silence of a LIST counts for what was seen to go, where many go at once; all else is asked for by name."""
    known = true.known.pool
    going = known is not None and known.state == "Deleting"
    return but(true, known=true.known.absent(now=true.now)) if going else _looked(true)


def _next_pool(true: World) -> AgentPool | None:
    pool = true.pool
    if pool is not None and pool.state == "Deleting" and true.mood == MOODS[-1]:
        return replace(pool, etag=f"{pool.etag}d") if len(pool.etag) < LASTS else None
    if pool is None or pool.state == "Deleting":
        return None
    if pool.state in ("Creating", "Updating") and true.mood != "creation never ends":
        return replace(pool, state="Succeeded", etag=f"{pool.etag}s")
    return pool


def _next_node(true: World) -> str:
    if true.pool is None:
        return "none"  # AKS takes the Node of a machine away that is gone
    joins = true.pool.state == "Succeeded" and (true.mood != "node never joins" or true.creates > 1)
    if true.node == "none" and not joins:
        return "none"
    return {"none": "not ready", "not ready": "tainted", "tainted": "ready"}.get(true.node, true.node)


# All of them


def a_status(truth: str) -> Mapping[str, Any]:
    then = (NOON - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "conditions": [
            {"type": step, "status": truth, "reason": "x", "message": "", "lastTransitionTime": then} for step in STEPS
        ]
    }


def worlds() -> Iterator[World]:
    pools = [
        None,
        *(AgentPool(NAME, s, etag="e", tags=t, asked_at=NOON) for s in STATES for t in (OURS, FOREIGN)),
    ]
    lives = ((False, False), (False, True), (True, True))  # a deleted Machine without our finalizer is gone
    statuses = (None, a_status("True"), a_status("False"))
    for (deleting, finalizer), status, pool, node, mood in itertools.product(lives, statuses, pools, NODES, MOODS):
        world = World(deleting=deleting, finalizer=finalizer, status=status, pool=pool, node=node, mood=mood)
        if (pool is None and node != "none") or (world.foreign and mood != "fine"):
            continue
        yield world
        if node == "ready" and not world.foreign:
            yield but(world, claimed=True)
            yield but(world, claimed=True, pods=2)
            yield but(world, claimed=True, cordoned=True)


def settled(
    world: World,
    *,
    late: int = 0,
    two: bool = False,
    limits: Limits = LIMITS,
    mutate: Mutation = lambda seen: seen,
    visited: set[int] | None = None,
) -> World:
    """The world once nothing moves any more. Machine and node are seen ``late`` steps old; the door knows its own.

    ``two``: two controllers take turns, each with a memory of its own.
    """
    past, quiet = [but(world, fresh=late == 0)], 0
    for _ in range(LONG * (1 + two)):
        true = past[-1]
        view = but(past[max(0, len(past) - 1 - late)], pods=true.pods)  # pods are listed live
        if visited is not None:
            visited.add(_state(view, true))
        if not true.exists:
            return true
        todo = plan(mutate(observed(view, known=true.known)), true.now, cluster="prod", limits=limits)
        after = later(carried_out(todo, true))
        quiet = quiet + 1 if todo.look_again is None and not todo.writes and _same(true, after) else 0
        if quiet > late * (1 + two) + two:
            return after
        past.append(but(after, known=after.other, other=after.known) if two else after)
    return past[-1]


_TRUTH = attrgetter(
    "exists",
    "deleting",
    "finalizer",
    "status",
    "pool",
    "node",
    "claimed",
    "cordoned",
    "pods",
    "mood",
    "creates",
    "known",
)


def _same(before: World, after: World) -> bool:
    return bool(_TRUTH(before) == _TRUTH(after))


def _state(view: World, true: World) -> int:
    """What tells a state from another: what is seen, what is true, what is remembered, and the age of the pool."""
    memory = map(_memory, (true.known, true.other))
    return hash((*_visible(view), *_visible(true), true.mood, true.fresh, true.creates, *memory))


def _visible(world: World) -> tuple[Hashable, ...]:
    pool, conditions = world.pool, (world.status or {}).get("conditions") or ()
    age = (world.now - pool.asked_at).seconds if pool and pool.asked_at else None
    seen = (pool and pool.state, world.foreign, age, tuple((c["status"], c["reason"]) for c in conditions))
    return (world.exists, world.deleting, world.finalizer, world.node, world.claimed, world.cordoned, world.pods, *seen)


def _memory(known: Known) -> Hashable:
    refused = [r and r.refusal.reason for r in (known.create_refused, known.delete_refused)]
    return (known.pool and known.pool.state, known.absent_since is not None, *refused)


def check(world: World, late: int, *, visited: set[int], two: bool = False) -> None:
    end = settled(world, late=late, two=two, visited=visited)
    case = (world, late, two, end)
    if world.foreign and (world.pool is None or world.pool.state != "Deleting"):
        assert (end.exists, end.pool and end.pool.tags, end.creates) == (True, FOREIGN, 0), case
        return
    if world.deleting:
        assert (end.exists, end.pool, end.creates) == (False, None, 0), case
        return
    assert end.pool is not None, case
    assert (end.pool.bears(OURS), end.node, end.claimed, end.finalizer) == (True, "ready", True, True), case
    assert end.status is not None
    assert by_type(end.status["conditions"])["Ready"]["status"] == "True", case
    # One create for one pool, and another where the first never came to life.
    assert end.creates <= 1 + (world.mood in ("creation never ends", "node never joins")), case
    again = plan(observed(end, known=end.known), end.now + timedelta(hours=1), cluster="prod", limits=LIMITS)
    assert (again.writes, again.look_again) == (False, None), case


FEWEST = 50_000
"""Different states that all of this must have gone through."""


def test_from_every_state_the_wanted_fixed_point_is_reached_and_kept(count_cases: Callable[[str, int], None]) -> None:
    visited: set[int] = set()
    for world, late in itertools.product(worlds(), range(4)):
        check(world, late, visited=visited)
        check(_looked(world) if late % 2 else world, late, visited=visited, two=True)
    count_cases("statemodel", len(visited))
    assert len(visited) >= FEWEST


def _blind(seen: Observed) -> Observed:
    pool = seen.pool.pool
    return seen if pool is None else replace(seen, pool=replace(seen.pool, pool=replace(pool, tags=OURS)))


MUTATIONS: dict[str, tuple[Limits, Mutation]] = {
    "the finalizer is dropped at the first 404": (replace(LIMITS, gone=0), lambda seen: seen),
    "a pool is asked for before the finalizer is on": (LIMITS, lambda seen: replace(seen, has_finalizer=True)),
    "ownership is not looked at": (LIMITS, _blind),
    "the pods are not looked at": (LIMITS, lambda seen: replace(seen, pods=())),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_seeded_mistake_is_caught(mutation: str) -> None:
    limits, mutate = MUTATIONS[mutation]
    with pytest.raises(Violation):
        _ = [settled(world, limits=limits, mutate=mutate) for world in worlds() if world.mood == "fine"]
