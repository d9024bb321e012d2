"""When a machine counts as lost, and why it was: its node has been dead for long, or it is gone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api.conditions import moment
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.fleet import Fleet
from kaito_operator.workspace.attempts import Attempt, Loss
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.seen_machines import Machine, Node

NO_WORDS = (Reason.MACHINES_READY, Reason.MACHINES_PENDING, Reason.MACHINE_TERMINATING, Reason.MACHINE_BACK_OFF)
"""What the condition of Machines can say that is not the cause of a loss."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A Machine whose node will not come back, as far as can be told."""

    machine: Machine
    words: str


def lost(
    seen: Observed, machines: Sequence[Machine], nodes: Sequence[Node], *, now: datetime, lost_after: float
) -> tuple[Lost, ...]:
    """Machines that call themselves Ready and whose nodes have not been for ``lost_after`` seconds.

    One that says itself that it is not Ready is being mended by its provisioner. While many nodes of the cluster are
    not Ready none is given up: the fault lies elsewhere.
    """
    return () if seen.fleet.ails else tuple(_lost(seen, machines, nodes, now=now, lost_after=lost_after))


def _lost(
    seen: Observed, machines: Sequence[Machine], nodes: Sequence[Node], *, now: datetime, lost_after: float
) -> Iterator[Lost]:
    for machine in machines:
        if not machine.ready:
            continue
        node = next((each for each in nodes if each.name == machine.node_name), None)
        if node is not None and is_dead(node, seen.fleet, now=now, lost_after=lost_after):
            yield Lost(machine, f"Node {node.name} has not been Ready for {lost_after / 60:g} min")
        since = _without_node(seen, machine) if node is None else None
        if since is not None and (now - since).total_seconds() >= lost_after:
            yield Lost(machine, f"its Node has been gone for {lost_after / 60:g} min")


def is_dead(node: Node, fleet: Fleet, *, now: datetime, lost_after: float) -> bool:
    """Whether it has not been Ready for so long, in a cluster that is otherwise well."""
    left = patience(node, now=now, lost_after=lost_after)
    return left is not None and left <= 0 and not fleet.ails


def patience(node: Node, *, now: datetime, lost_after: float) -> float | None:
    """Seconds that a node has left to become Ready again; None if it is, or if nobody knows since when not."""
    since = node.conditions.get("Ready", {}).get("lastTransitionTime")
    return None if node.ready or not since else lost_after - (now - moment(since)).total_seconds()


def _without_node(seen: Observed, machine: Machine) -> datetime | None:
    """Since when a Machine that is Ready has had no Node: since both it and the Workspace say what they say now."""
    told = seen.workspace.conditions.get(ConditionType.RESOURCE_READY, {})
    times = [each.get("lastTransitionTime") for each in (machine.conditions.get("Ready", {}), told)]
    if told.get("status") == "True" or not all(times):
        return None
    return max(moment(str(each)) for each in times)


def why(seen: Observed, known: Attempt, machine: Machine | None, *, told: Mapping[str, Any]) -> Loss:
    """Why a Machine is lost if it is: what was last said of it, what others say of it now, or that it is gone."""
    name = machine.name if machine is not None else _last_name(seen, known)
    said = str(told.get("message", ""))
    if told.get("status") == "False" and told.get("reason") not in NO_WORDS and name in said:
        return Loss(_reason(told.get("reason")), said)
    if machine is not None and machine.ready:
        return Loss(Reason.MACHINE_BACK_OFF, f"{machine} was deleted")
    return seen.post_mortem.loss_of(name) or Loss(Reason.MACHINE_BACK_OFF, f"{name} went before it was ready")


def _last_name(seen: Observed, known: Attempt) -> str:
    """The name of the Machine that was asked for last."""
    return machine_name(seen.workspace.uid, slot=known.slot, attempt=known.number - (not known.asked))


def _reason(text: object) -> Reason:
    """Ours, or what stands for any other."""
    return Reason(str(text)) if text in set(Reason) else Reason.MACHINE_FAILED
