"""Every state a Machine, its pool and its node can be in, driven through ``plan`` and a model of the cloud.

From each state, with what is seen up to three steps older than what is true, with a restart's empty memory and with a
fault of the cloud on the way, the controller reaches the wanted fixed point and stays there. Never is there a create
for a pool that is there, without our finalizer on the Machine, or under the Node of the pool before; never is a
finalizer dropped with the pool alive, the Machine's with its Node left, or a Machine deleted because the cloud took
its node; and a foreign pool and its node are never touched.
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
from kaito_operator.gpu_provisioner.cloud import SETTLED, AgentPool
from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.gpu_provisioner.known import Known
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.nodes import releasing
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.plan import (
    Apply,
    CloudStep,
    CreateInCloud,
    DeleteInCloud,
    Finalizer,
    LookInCloud,
    Manifest,
    Plan,
    Ref,
    Subject,
)
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
    "somebody deletes the node",
    "the pool is taken while nobody looks",
    "the LIST hides what is going",
)
"""What goes wrong, once. With the last, the cloud takes a minute to delete, and does not list it meanwhile."""
DELETED, TAKEN, HIDDEN = MOODS[-3:]
CALM = ("fine", DELETED, TAKEN)
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
    held: bool = False
    """Whether the node bears our finalizer."""
    leaving: bool = False
    """Whether somebody has deleted the node."""
    stripped: bool = False
    """Whether somebody has taken our owner reference off the node; the label is there still."""
    birth: int = 0
    """Which of the machines of the name the node is; another has another uid."""
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


NO_NODE: dict[str, Any] = {
    "node": "none",
    "claimed": False,
    "held": False,
    "leaving": False,
    "stripped": False,
    "cordoned": False,
    "pods": 0,
}


def but(world: World, **changes: Any) -> World:
    """``dataclasses.replace``, which is a third of the time of all this, without its checks."""
    made = object.__new__(World)
    made.__dict__.update(world.__dict__)
    made.__dict__.update(changes)
    return made


class Violation(AssertionError):
    """A money rule was broken."""


Mutation = Callable[[Observed], Observed]
PlanMutation = Callable[[Observed, Plan], Plan]


def observed(world: World, *, known: Known) -> Observed:
    status = dict(world.status) if world.status else None
    machine = a_machine(finalizer=world.finalizer, deleting=world.deleting, status=status, labels=SIZE)
    return Observed(
        machine=machine,
        subject=Subject(Ref.of(machine), "machine-uid", 1, world.deleting),
        has_finalizer=world.finalizer,
        conditions=by_type((status or {}).get("conditions") or ()),
        pool=known,
        nodes=_nodes(world.node, world.claimed, world.cordoned, world.held, world.leaving, world.birth, world.stripped),
        pods=PODS[: world.pods],
    )


PODS = (a_pod("p0"), a_pod("p1"))


@cache
def _nodes(
    node: str, claimed: bool, cordoned: bool, held: bool, leaving: bool, birth: int, stripped: bool
) -> tuple[Manifest, ...]:
    if node == "none":
        return ()
    marks = {"karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"} if claimed else {}
    marks |= {"node.kubernetes.io/exclude-from-external-load-balancers": "karpenter"} if cordoned else {}
    taints = ["node.kubernetes.io/not-ready"] if node == "tainted" else []
    owner = "machine-uid" if claimed and not stripped else ""
    made = a_node(ready=node != "not ready", taints=taints, owner=owner, labels=marks, held=held, deleting=leaving)
    made["metadata"]["uid"] = _uid(birth)
    made["spec"]["unschedulable"] = cordoned
    return (made,)


def _uid(birth: int) -> str:
    return f"node-{birth}"


# carry_out and the pools' door, with their second looks and in their order


def carried_out(todo: Plan, true: World) -> World:
    costs = bool(todo.cloud or todo.finalizer is not Finalizer.KEEP or todo.there_in_cloud)
    if costs and todo.subject.deleting != true.deleting:
        return true  # the second look finds another Machine than the one planned for
    if todo.holding is not None and true.claimed:
        return true  # it finds the Node of the pool before
    if todo.finalizer is Finalizer.ADD:
        true = but(true, finalizer=True)
    for applied in todo.apply:
        true = _applied(true, applied)
    if todo.evict:
        true = but(true, pods=0)
    for step in todo.cloud:
        true = _in_cloud(step, true)
    true = _in_cluster(todo, true)
    return _dropped(todo, true) if todo.finalizer is Finalizer.DROP else true


def _in_cluster(todo: Plan, true: World) -> World:
    for delete in todo.delete:
        true = _machine_deleted(todo, true) if delete.ref.kind == "Machine" else _node_deleted(true, delete.uid)
    for report in todo.report:
        true = but(true, status=report.status)
    for release in todo.release:
        true = _released(todo, true, release.uid)
    return true


def _in_cloud(step: CloudStep, true: World) -> World:
    if isinstance(step, LookInCloud):
        return _looked(true)
    return _created(true) if isinstance(step, CreateInCloud) else _deleted(true, etag=step.etag)


def _applied(true: World, applied: Apply) -> World:
    if applied.manifest["kind"] != "Node" or true.node == "none" or applied.uid != _uid(true.birth):
        return true
    if true.foreign and not true.claimed:
        raise Violation("the node of a foreign pool is claimed")
    if true.leaving and not true.held and "finalizers" in applied.manifest["metadata"]:
        raise Violation("a finalizer is put on a node that is being deleted")
    true = but(true, held=true.held or "finalizers" in applied.manifest["metadata"], stripped=False)
    if "spec" in applied.manifest:
        return but(true, cordoned=True)
    return but(true, claimed=True)


def _machine_deleted(todo: Plan, true: World) -> World:
    if NAME in todo.there_in_cloud:
        true = _looked(true)
        if true.pool is None or true.pool.state not in SETTLED:
            return true  # the live look finds that the cloud took the node
    if true.pool is None or true.pool.state == "Deleting":
        raise Violation("a Machine is deleted because the cloud took its node")
    return but(true, deleting=True)


def _node_deleted(true: World, uid: str) -> World:
    if uid != _uid(true.birth) or true.node == "none":
        return true
    return but(true, leaving=True) if true.held else but(true, **NO_NODE)


def _released(todo: Plan, true: World, uid: str) -> World:
    if NAME in todo.gone_in_cloud:
        true = _looked(true)
        if true.pool is not None:
            return true  # the live look before it finds the pool
    if true.pool is not None:
        raise Violation("the node's finalizer is dropped with its pool alive")
    return but(true, **NO_NODE) if true.leaving and uid == _uid(true.birth) else true


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
    if true.held:
        raise Violation("a pool is asked for under the Node of the one before")
    true = but(true, pool=pool, creates=true.creates + 1, **NO_NODE)
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
    if true.held:
        raise Violation("the Machine is let go before its Node")
    return but(true, finalizer=False, exists=False)


def later(true: World) -> World:
    """The world goes on by ten seconds, and the LIST tells of it."""
    seen_to = not (true.mood == TAKEN and true.claimed and not true.leaving and _is_ready(true))
    pool = _next_pool(true) if seen_to else None
    true = but(true, now=true.now + timedelta(seconds=10), pool=pool, mood=true.mood if seen_to else "fine")
    true = _deleted_by_hand(but(true, **_next_node(true)))
    if not seen_to:
        return true
    if true.pool is None or true.pool.state in ("Deleting", "Succeeded"):
        true = but(true, mood="fine" if true.mood == "creation never ends" else true.mood)
    if true.pool is None and true.mood == HIDDEN:
        true = but(true, mood="fine")
    if true.known.pool is None and not (true.known.nothing and true.status):
        return true
    if true.pool is not None and true.pool.state == "Deleting" and true.mood == HIDDEN:
        return _listed_without(true)
    return _looked(true)


def _listed_without(true: World) -> World:
    """The silence of a LIST counts for what was seen to go, where many go at once; all else is asked for by name."""
    known = true.known.pool
    going = known is not None and known.state == "Deleting"
    return but(true, known=true.known.absent(now=true.now)) if going else _looked(true)


def _next_pool(true: World) -> AgentPool | None:
    pool = true.pool
    if pool is not None and pool.state == "Deleting" and true.mood == HIDDEN:
        return replace(pool, etag=f"{pool.etag}d") if len(pool.etag) < LASTS else None
    if pool is None or pool.state == "Deleting":
        return None
    if pool.state in ("Creating", "Updating") and true.mood != "creation never ends":
        return replace(pool, state="Succeeded", etag=f"{pool.etag}s")
    return pool


def _next_node(true: World) -> dict[str, Any]:
    if true.pool is None:  # AKS takes the Node of a machine away that is gone; our finalizer keeps it
        return {"node": "not ready", "leaving": True} if true.held else NO_NODE
    joins = true.pool.state == "Succeeded" and (true.mood != "node never joins" or true.creates > 1)
    if true.node == "none":
        return {"node": "not ready", "birth": true.creates} if joins else NO_NODE
    return {"node": {"not ready": "tainted", "tainted": "ready"}.get(true.node, true.node)}


def _deleted_by_hand(true: World) -> World:
    """Somebody deletes a node that is at work; once."""
    deletes = true.mood == DELETED and true.node == "ready" and true.held and not true.leaving
    return but(true, mood="fine", leaving=True) if deletes else true


def _is_ready(true: World) -> bool:
    conditions = by_type((true.status or {}).get("conditions") or ())
    return bool(conditions.get("Ready", {}).get("status") == "True")


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
            yield but(world, claimed=True, held=True, pods=2)
            yield but(world, claimed=True, held=True, cordoned=True)
            yield but(world, claimed=True, held=True, leaving=True, pods=2)
            if mood in CALM:
                yield but(world, claimed=True, held=True, stripped=True, pods=2)
                yield but(world, claimed=True, held=True, stripped=True, leaving=True, pods=2)
    for (deleting, finalizer), status in itertools.product(lives, statuses):  # what a pool that is gone leaves
        left = World(deleting=deleting, finalizer=finalizer, status=status, node="not ready", claimed=True, held=True)
        for leaving, stripped in itertools.product((False, True), repeat=2):
            yield but(left, leaving=leaving, stripped=stripped)


def settled(
    world: World,
    *,
    late: int = 0,
    two: bool = False,
    limits: Limits = LIMITS,
    mutate: Mutation = lambda seen: seen,
    mutate_plan: PlanMutation = lambda seen, todo: todo,
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
        seen = mutate(observed(view, known=true.known))
        todo = plan(seen, true.now, cluster="prod", limits=limits)
        after = later(carried_out(mutate_plan(seen, todo), true))
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
    "held",
    "leaving",
    "stripped",
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
    node = (world.node, world.claimed, world.held, world.leaving, world.stripped, world.cordoned, world.pods)
    return (world.exists, world.deleting, world.finalizer, *node, *seen)


def _memory(known: Known) -> Hashable:
    refused = [r and r.refusal.reason for r in (known.create_refused, known.delete_refused)]
    return (known.pool and known.pool.state, known.absent_since is not None, *refused)


def check(world: World, late: int, *, visited: set[int], two: bool = False) -> None:
    end = settled(world, late=late, two=two, visited=visited)
    case = (world, late, two, end)
    if world.foreign and (world.pool is None or world.pool.state != "Deleting"):
        assert (end.exists, end.pool and end.pool.tags, end.creates) == (True, FOREIGN, 0), case
        return
    if _goes(world):
        assert (end.exists, end.pool, end.node) == (False, None, "none"), case
        assert end.creates <= (not world.deleting), case
        return
    assert end.pool is not None, case
    if world.leaving and (world.pool and world.pool.state, world.mood) == ("Updating", "creation never ends"):
        assert (end.exists, end.deleting, end.leaving, end.creates) == (True, False, True, 0), case  # it is Azure's
        return
    assert (end.pool.bears(OURS), end.node, end.claimed, end.finalizer) == (True, "ready", True, True), case
    assert (end.held, end.leaving, end.stripped) == (True, False, False), case
    assert end.status is not None
    assert by_type(end.status["conditions"])["Ready"]["status"] == "True", case
    # One create for one pool, and another where the first never came to life.
    assert end.creates <= 1 + (world.mood in ("creation never ends", "node never joins", TAKEN)), case
    again = plan(observed(end, known=end.known), end.now + timedelta(hours=1), cluster="prod", limits=LIMITS)
    assert (again.writes, again.look_again) == (False, None), case


def _goes(world: World) -> bool:
    """Whether the Machine is to go: it is deleted, or somebody deletes its node, or will."""
    pool = world.pool.state if world.pool else "none"
    its_node_goes = world.leaving and pool not in ("none", "Deleting")
    at_work_for_ever = pool == "Updating" and world.mood == "creation never ends"
    return world.deleting or world.mood == DELETED or (its_node_goes and not at_work_for_ever)


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


def _nodeless(seen: Observed) -> Observed:
    return replace(seen, nodes=()) if seen.pool.pool is None else seen


def _let_go_early(seen: Observed, todo: Plan) -> Plan:
    deletes = any(isinstance(step, DeleteInCloud) for step in todo.cloud)
    return replace(todo, release=releasing(seen.nodes), gone_in_cloud=()) if deletes else todo


def _by_owner_alone(seen: Observed) -> Observed:
    known = seen.pool.pool is not None
    owned = tuple(node for node in seen.nodes if node["metadata"].get("ownerReferences"))
    return seen if known else replace(seen, nodes=owned)


def _unasked(seen: Observed, todo: Plan) -> Plan:
    return replace(todo, there_in_cloud=())


MUTATIONS: dict[str, dict[str, Any]] = {
    "the finalizer is dropped at the first 404": {"limits": replace(LIMITS, gone=0)},
    "a pool is asked for before the finalizer is on": {"mutate": lambda seen: replace(seen, has_finalizer=True)},
    "ownership is not looked at": {"mutate": _blind},
    "the pods are not looked at": {"mutate": lambda seen: replace(seen, pods=())},
    "the node's finalizer is dropped before its pool is gone": {"mutate_plan": _let_go_early},
    "the Node of the pool before is not looked at": {"mutate": _nodeless},
    "nor is it looked for live": {"mutate_plan": lambda seen, todo: replace(todo, holding=None), "late": 3},
    "the cloud is not asked who deletes the node": {"mutate_plan": _unasked},
}


def test_a_node_that_is_known_by_its_owner_alone_would_hold_up_the_next_pool_for_ever() -> None:
    """The live look finds it by its label: the same rule has to hold for both."""
    left = World(finalizer=True, status=a_status("True"), node="not ready", claimed=True, held=True, stripped=True)
    assert [settled(left).creates, settled(left, mutate=_by_owner_alone).creates] == [1, 0]


@pytest.mark.parametrize("mistake", MUTATIONS)
def test_a_seeded_mistake_is_caught(mistake: str) -> None:
    with pytest.raises(Violation):
        _ = [settled(world, **MUTATIONS[mistake]) for world in worlds() if world.mood in CALM]
