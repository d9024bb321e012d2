"""Every state a Machine, its pool and its node can be in, driven through ``plan`` and a model of the cloud.

From each state, and also when what is seen is older than what is true, the controller reaches the wanted fixed point
and stays there; never is there a second create for a pool that is there, a create without our finalizer on the
Machine, a finalizer dropped with the pool alive, or a foreign pool touched.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from kaito_operator.api.conditions import by_type
from kaito_operator.gpu_provisioner.cloud import STUCK, AgentPool
from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.gpu_provisioner.known import Known, Refused
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.plan import Limits, plan
from kaito_operator.plan import CreateInCloud, Finalizer, Manifest, Plan, Ref, Subject
from tests.support.machines import a_machine, a_node

pytestmark = pytest.mark.statemodel

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LIMITS = Limits(gone=30, launch=1200, registration=900)
POOLS = ("absent", "Creating", "Updating", "Succeeded", "Failed", "Canceled", "Deleting")
NODES = ("none", "not ready", "tainted", "ready")
OWNERS = ("ours", "foreign")


@dataclass(frozen=True)
class World:
    """What is true."""

    deleting: bool = False
    exists: bool = True
    finalizer: bool = False
    pool: str = "absent"
    owner: str = "ours"
    node: str = "none"
    now: datetime = NOON
    absent_since: datetime | None = None
    refused: bool = False
    status: str = ""
    creates: int = 0


def machine(world: World) -> Manifest:
    status = (
        {"conditions": [{"type": "MachineLaunched", "status": "True", "reason": "Launched"}]} if world.status else None
    )
    return a_machine(finalizer=world.finalizer, deleting=world.deleting, status=status)


def observed(world: World) -> Observed:
    manifest = machine(world)
    refusal = Refused(Refusal("QuotaExceeded", "no", 60.0, terminal=True), world.now + timedelta(seconds=60))
    tags = {
        "kaito.sh_cluster": "prod",
        "kaito.sh_workspace-uid": "workspace-uid",
        "kaito.sh_machine-uid": "machine-uid" if world.owner == "ours" else "somebody",
    }
    pool = None if world.pool == "absent" else AgentPool("ws0123456789", world.pool, etag="e", tags=tags)
    return Observed(
        machine=manifest,
        subject=Subject(Ref.of(manifest), "machine-uid", 1, world.deleting),
        has_finalizer=world.finalizer,
        conditions=by_type((manifest.get("status") or {}).get("conditions") or ()),
        pool=Known(
            pool,
            world.absent_since if pool is None else None,
            create_refused=refusal if world.refused else None,
            delete_refused=refusal if world.refused else None,
        ),
        nodes=() if world.node == "none" else (_node(world),),
    )


def _node(world: World) -> Manifest:
    taints = ["node.kubernetes.io/not-ready"] if world.node == "tainted" else []
    return a_node(ready=world.node != "not ready", taints=taints)


Mutation = Callable[[Observed], Observed]


class Violation(AssertionError):
    """A money rule was broken."""


def carried_out(todo: Plan, true: World) -> World:
    """What the skeleton and the pools' door make of a plan: with their second look, in their order."""
    if not true.exists or todo.subject.deleting != true.deleting:
        return true  # the second look finds another Machine than the one planned for
    if todo.finalizer is Finalizer.ADD:
        true = replace(true, finalizer=True)
    for step in todo.cloud:
        true = _created(true) if isinstance(step, CreateInCloud) else _deleted(true)
    if any(delete.ref.kind == "Node" for delete in todo.delete):
        true = replace(true, node="none")
    if todo.finalizer is Finalizer.DROP:
        true = _dropped(todo, true)
    return true


def _created(true: World) -> World:
    if true.pool != "absent":
        return true  # the live GET finds it: adopted if ours, refused if not
    if not true.finalizer:
        raise Violation("a pool is asked for before the finalizer is on the Machine")
    return replace(true, pool="Creating", owner="ours", absent_since=None, creates=true.creates + 1, refused=False)


def _deleted(true: World) -> World:
    if true.pool == "absent":
        return replace(true, absent_since=true.absent_since or true.now)
    return replace(true, pool="Deleting") if true.owner == "ours" else true


def _dropped(todo: Plan, true: World) -> World:
    if true.pool != "absent":
        return true  # the live look before the drop finds it
    if todo.gone_in_cloud != ("ws0123456789",):
        raise Violation("the finalizer is dropped without asking the cloud")
    if true.absent_since is None or true.now - true.absent_since < timedelta(seconds=30):
        raise Violation("the finalizer is dropped before the pool has been gone for long enough")
    return replace(true, finalizer=False, exists=False)


def later(true: World) -> World:
    """The world goes on by ten seconds without faults."""
    pool = {"Creating": "Succeeded", "Updating": "Succeeded", "Deleting": "absent"}.get(true.pool, true.pool)
    node = true.node
    if pool == "Succeeded":
        node = {"none": "not ready", "not ready": "tainted", "tainted": "ready"}.get(true.node, true.node)
    # What vanished, or is said to be launched and is not there, is noticed by the LIST and looked for by name.
    gone = pool == "absent" and (true.pool == "Deleting" or bool(true.status))
    return replace(
        true, pool=pool, node=node, now=true.now + timedelta(seconds=10), refused=False,
        absent_since=true.absent_since or (true.now if gone else None),
    )  # fmt: skip


def states() -> list[World]:
    product = itertools.product(
        (False, True), (False, True), POOLS, OWNERS, NODES, (False, True), (None, NOON), ("", "x")
    )
    return [
        World(
            deleting=d,
            finalizer=f,
            pool=p,
            owner=o,
            node=n,
            refused=r,
            absent_since=a if p == "absent" else None,
            status=s,
        )
        for d, f, p, o, n, r, a, s in product
        if not (d and not f)  # a deleted Machine without our finalizer is gone
    ]


def settled(
    world: World, *, seen_late: int = 0, limits: Limits = LIMITS, mutate: Mutation = lambda seen: seen
) -> tuple[World, int]:
    """The world after the controller had forty passes, and how many creates it took; sees ``seen_late`` steps old."""
    past = [world]
    for _ in range(40):
        view = past[max(0, len(past) - 1 - seen_late)]
        if view.exists:
            todo = plan(mutate(observed(view)), view.now, cluster="prod", limits=limits)
            foreign = world.owner == "foreign" and world.pool != "absent"
            true = carried_out(todo, past[-1])
            if foreign and past[-1].owner == "foreign" and past[-1].pool != true.pool and true.pool == "Deleting":
                raise Violation("a foreign pool is touched")
        else:
            true = past[-1]
        past.append(later(true))
    return past[-1], past[-1].creates


def test_from_every_state_the_wanted_fixed_point_is_reached_with_at_most_one_create(
    count_cases: Callable[[str, int], None],
) -> None:
    everything = states()
    for world, late in itertools.product(everything, range(4)):
        end, creates = settled(world, seen_late=late)
        foreign = world.owner == "foreign" and world.pool != "absent"
        # A failed pool goes and comes back as a new one: that is one create for one pool, again.
        assert creates <= 1, (world, late)
        if foreign:
            assert end.owner == "foreign" or end.creates, (world, late)
        elif world.deleting:
            assert (end.exists, end.pool) == (False, "absent"), (world, late, end)
        elif world.pool in STUCK and world.node != "none":
            # A change that failed, such as an upgrade, leaves a Failed pool whose node works on: it is left alone.
            assert (end.pool, end.node, end.creates) == (world.pool, world.node, 0), (world, late, end)
        else:
            assert (end.pool, end.node, end.finalizer) == ("Succeeded", "ready", True), (world, late, end)
    count_cases("statemodel", len(everything) * 4)


def test_the_fixed_point_has_nothing_to_do() -> None:
    manifest = a_machine(finalizer=True, labels={"node.kubernetes.io/instance-type": "Standard_NC12s_v3"})
    world = World(finalizer=True, pool="Succeeded", node="ready")
    first = plan(replace(observed(world), machine=manifest), NOON, cluster="prod", limits=LIMITS)
    status = first.report[0].status
    node = a_node(owner="machine-uid")
    node["metadata"]["labels"] |= {"karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"}
    after = replace(
        observed(world), machine={**manifest, "status": status}, nodes=(node,), conditions=by_type(status["conditions"])
    )
    again = plan(after, NOON + timedelta(hours=1), cluster="prod", limits=LIMITS)
    assert (again.writes, again.look_again) == (False, None)


MUTATIONS: dict[str, tuple[Limits, Mutation]] = {
    "the finalizer is dropped at the first 404": (Limits(gone=0, launch=1200, registration=900), lambda seen: seen),
    "a pool is asked for before the finalizer is on": (LIMITS, lambda seen: replace(seen, has_finalizer=True)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_seeded_mistake_is_caught(mutation: str) -> None:
    limits, mutate = MUTATIONS[mutation]
    fresh = [replace(world, absent_since=None) for world in states()]
    with pytest.raises(Violation):
        _ = [settled(world, limits=limits, mutate=mutate) for world in fresh]
