"""Where a Workspace runs: on Machines of its own, on nodes that exist, and what of both is still missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.kinds import NODECLAIM, Kind
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.api.spec import Resource
from kaito_operator.workspace import attempts, losses
from kaito_operator.workspace.attempts import Attempt
from kaito_operator.workspace.losses import Lost
from kaito_operator.workspace.machines import kept, slots
from kaito_operator.workspace.nodes import chosen
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.seen_machines import Machine, Node

TRIES_SECONDS = 30.0
"""For which Karpenter may try to launch a claim; it does so after 1, 2, 4 … s."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The nodes and Machines of a Workspace, and how many are missing."""

    nodes: tuple[Node, ...]
    """In use, by name: of our Machines once they have joined, and existing ones."""
    machines: tuple[Machine, ...]
    surplus: tuple[Machine, ...]
    """Not needed, or of no use."""
    leaving: tuple[Machine, ...]
    """Being deleted."""
    missing: int
    """Places for which there is neither a node nor a Machine."""
    to_buy: tuple[Attempt, ...]
    """Machines to ask for now. One that is being deleted still counts as one, for it is still paid for."""
    released: tuple[Node, ...]
    """Held, and not used any more."""
    attempts: tuple[Attempt, ...] = ()
    """The account of what was asked for in each slot, once ``to_buy`` is."""
    lost: tuple[Lost, ...] = ()
    """Machines whose nodes have been dead for long: they are given up."""
    absent: Kind | None = None
    """What machines would be asked for with, if the cluster does not know it."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """The condition that tells of Machines, as it was."""

    @property
    def of_claims(self) -> tuple[Node, ...]:
        """The nodes that NodeClaims became."""
        claims = [machine for machine in self.machines if machine.kind == NODECLAIM]
        return tuple(node for node in self.nodes if any(is_of(node, claim) for claim in claims))

    @property
    def waiting(self) -> tuple[Attempt, ...]:
        """Attempts after a loss whose time has not come, the next first."""
        open_ = [each for each in self.attempts if each.not_before is not None and not each.asked]
        return tuple(sorted(open_, key=lambda each: (each.not_before, each.slot)))


def placement(
    seen: Observed, resource: Resource, *, gpus: int, kind: Kind, lost_after: float, now: datetime
) -> Placement:
    """A Machine that lives has a place, joined or not; existing nodes fill the others; the rest is missing.

    ``kind``: what machines are asked for with. ``gpus``: how many a node must advertise to be chosen where its size
    does not say. ``lost_after``: the seconds for which a node may be not Ready.
    """
    workspace = seen.workspace
    machines = kept(seen.machines, count=resource.count, uid=workspace.uid)
    bought = [node for node in seen.nodes if not node.deleting and any(is_of(node, m) for m in machines)]
    others = [node for node in seen.nodes if not any(is_of(node, m) for m in seen.machines)]
    dead = {node.name for node in others if losses.is_dead(node, seen.fleet, now=now, lost_after=lost_after)}
    existing = chosen(
        [node for node in others if node.holder or node.gpus >= gpus],
        resource=resource,
        key=workspace.key,
        places=resource.count - len(machines),
        worked_on=_worked_on(seen),
        dead=dead,
    )
    missing = resource.count - len(machines) - len(existing)
    account = _account(seen, resource, now=now)
    may_buy = bool(resource.instance_type) and kind not in seen.absent
    to_buy = _to_buy(seen, resource, account, number=missing if may_buy else 0, now=now)
    gone_dark = losses.lost(seen, machines, bought, now=now, lost_after=lost_after)
    hopeless = _hopeless(seen, machines, now=now)
    useless = (*hopeless, *(each.machine for each in gone_dark))
    return Placement(
        nodes=tuple(sorted([*bought, *existing], key=lambda node: node.name)),
        machines=machines,
        surplus=(*(m for m in seen.machines if m not in machines and not m.deleting), *useless),
        leaving=tuple(machine for machine in seen.machines if machine.deleting),
        missing=missing,
        to_buy=to_buy,
        released=tuple(node for node in others if node.holder and node not in existing),
        attempts=_after(account, to_buy),
        lost=gone_dark,
        absent=kind if kind in seen.absent else None,
        told=told(seen),
    )


def is_of(node: Node, machine: Machine) -> bool:
    """By the Machine's own word; before it has said so, by the agent pool, which has the Machine's name."""
    return node.name == machine.node_name or node.labels.get(labels.AGENT_POOL) == machine.name


def _worked_on(seen: Observed) -> Sequence[str]:
    names = seen.workspace.status.get("workerNodes")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def told(seen: Observed) -> Mapping[str, Any]:
    """What the status says of Machines or claims."""
    conditions = seen.workspace.conditions
    return conditions.get(ConditionType.MACHINE_READY) or conditions.get(ConditionType.NODE_CLAIM_READY) or {}


def _account(seen: Observed, resource: Resource, *, now: datetime) -> tuple[Attempt, ...]:
    """The status's account of each slot, brought up to what is seen. A changed Workspace starts with a clean one."""
    known, taken = attempts.recorded(seen.workspace.status), slots(seen.machines, uid=seen.workspace.uid)
    changed = seen.workspace.status.get("observedGeneration") != seen.workspace.generation
    said = told(seen)
    return tuple(
        attempts.went_on(
            attempts.forgiven(before) if changed else before,
            taken.get(slot),
            loss=losses.why(seen, before, taken.get(slot), told=said),
            wanted=slot < resource.count,
            now=now,
        )
        for slot in sorted({*range(resource.count), *known, *taken})
        for before in (known.get(slot, Attempt(slot)),)
    )


def _after(account: Sequence[Attempt], bought: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The account once these are asked for, without the slots of which there is nothing to say."""
    after = (replace(each, asked=True) if each in bought else each for each in account)
    return tuple(each for each in after if each != Attempt(each.slot))


def _to_buy(
    seen: Observed, resource: Resource, account: Sequence[Attempt], *, number: int, now: datetime
) -> tuple[Attempt, ...]:
    """The attempts whose Machines are asked for now: of free slots, when their time has come, at most ``number``."""
    taken = slots(seen.machines, uid=seen.workspace.uid)
    free = [each for each in account if each.slot < resource.count and each.slot not in taken]
    room = resource.count - len(seen.machines)
    return tuple(each for each in free if not each.wait(now))[: max(0, min(number, room))]


def _hopeless(seen: Observed, machines: Sequence[Machine], *, now: datetime) -> tuple[Machine, ...]:
    """Claims that Karpenter cannot launch, once the status has said why: their last words go with them, and as long as
    one is there Karpenter launches nothing for anybody (seen on 1.14). Machines stay: gpu-provisioner mends them."""
    before = told(seen)
    if before.get("reason") != Reason.LAUNCH_FAILED:
        return ()
    return tuple(m for m in machines if m.launch_failed and str(m) in before.get("message", "") and _is_old(m, now=now))


def _is_old(machine: Machine, *, now: datetime) -> bool:
    return (now - machine.created_at).total_seconds() >= TRIES_SECONDS
