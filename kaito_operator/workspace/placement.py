"""Where a Workspace runs: on Machines of its own, on nodes that exist, and what of both is still missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import moment
from kaito_operator.api.kinds import Kind
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.api.spec import Resource
from kaito_operator.workspace.machines import kept
from kaito_operator.workspace.nodes import chosen
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.seen import Machine, Node

BACK_OFF_SECONDS = 30.0
"""Between the loss of a Machine and asking for another: a provisioner that takes each away is not to be kept busy."""
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
    to_buy: int
    """Machines to ask for now. One that is being deleted still counts as one, for it is still paid for."""
    released: tuple[Node, ...]
    """Held, and not used any more."""
    back_off: float = 0.0
    """Seconds for which no Machine is asked for."""
    absent: Kind | None = None
    """What machines would be asked for with, if the cluster does not know it."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """The condition that tells of Machines, as it was."""


def placement(seen: Observed, resource: Resource, *, gpus: int, kind: Kind, now: datetime) -> Placement:
    """A Machine that lives has a place, joined or not; existing nodes fill the others; the rest is missing.

    ``kind``: what machines are asked for with. ``gpus``: how many a node must advertise to be chosen where its size
    does not say.
    """
    workspace = seen.workspace
    machines = kept(seen.machines, count=resource.count, uid=workspace.uid)
    leaving = tuple(machine for machine in seen.machines if machine.deleting)
    bought = [node for node in seen.nodes if not node.deleting and any(_is_of(node, m) for m in machines)]
    others = [node for node in seen.nodes if not any(_is_of(node, m) for m in seen.machines)]
    existing = chosen(
        [node for node in others if node.holder or node.gpus >= gpus],
        resource=resource,
        key=workspace.key,
        places=resource.count - len(machines),
        worked_on=_worked_on(seen),
    )
    missing = resource.count - len(machines) - len(existing)
    back_off = _back_off(seen, missing=missing, now=now)
    may_buy = resource.instance_type and not back_off and kind not in seen.absent
    room = resource.count - len(seen.machines) if may_buy else 0
    return Placement(
        nodes=tuple(sorted([*bought, *existing], key=lambda node: node.name)),
        machines=machines,
        surplus=(
            *(m for m in seen.machines if m not in machines and m not in leaving),
            *_hopeless(seen, machines, now=now),
        ),
        leaving=leaving,
        missing=missing,
        to_buy=max(0, min(missing, room)),
        released=tuple(node for node in others if node.holder and node not in existing),
        back_off=back_off,
        absent=kind if kind in seen.absent else None,
        told=_told(seen),
    )


def _is_of(node: Node, machine: Machine) -> bool:
    """By the Machine's own word; before it has said so, by the agent pool, which has the Machine's name."""
    return node.name == machine.node_name or node.labels.get(labels.AGENT_POOL) == machine.name


def _worked_on(seen: Observed) -> Sequence[str]:
    names = seen.workspace.status.get("workerNodes")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _told(seen: Observed) -> Mapping[str, Any]:
    """What the status says of Machines or claims."""
    conditions = seen.workspace.conditions
    return conditions.get(ConditionType.MACHINE_READY) or conditions.get(ConditionType.NODE_CLAIM_READY) or {}


def _back_off(seen: Observed, *, missing: int, now: datetime) -> float:
    """What is left of the wait that began when Machines turned out to be wrong.

    Those that were asked for and are not there have gone without a word: a Karpenter without capacity deletes a claim
    within a second. The wait for the next begins then.
    """
    told = _told(seen)
    if told.get("reason") == Reason.MACHINES_PENDING and missing:
        return BACK_OFF_SECONDS
    if told.get("status") != "False" or told.get("reason") == Reason.MACHINE_KIND_MISSING:
        return 0.0
    if "lastTransitionTime" not in told:
        return 0.0
    return max(0.0, BACK_OFF_SECONDS - (now - moment(told["lastTransitionTime"])).total_seconds())


def _hopeless(seen: Observed, machines: Sequence[Machine], *, now: datetime) -> tuple[Machine, ...]:
    """Claims that Karpenter cannot launch, once the status has said why: their last words go with them, and as long as
    one is there Karpenter launches nothing for anybody (seen on 1.14). Machines stay: gpu-provisioner mends them."""
    told = _told(seen)
    if told.get("reason") != Reason.LAUNCH_FAILED:
        return ()
    return tuple(m for m in machines if m.launch_failed and str(m) in told.get("message", "") and _is_old(m, now=now))


def _is_old(machine: Machine, *, now: datetime) -> bool:
    return (now - machine.created_at).total_seconds() >= TRIES_SECONDS
