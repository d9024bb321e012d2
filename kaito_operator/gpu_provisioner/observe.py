"""From mirror and pool knowledge to one frozen value: all that a plan for one Machine may know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type
from kaito_operator.api.kinds import MACHINE, NODE
from kaito_operator.gpu_provisioner.known import Known
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest, Ref, Subject


class KnowsPools(Protocol):
    """Where pool knowledge comes from."""

    def known(self, name: str) -> Known:
        """What is known of a name."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One Machine, its pool and its nodes."""

    machine: Manifest
    subject: Subject
    has_finalizer: bool
    conditions: Mapping[str, Mapping[str, Any]]
    pool: Known
    nodes: tuple[Manifest, ...] = ()
    """Those that bear the pool's label and have a providerID; a pool may briefly hold a spare instance."""

    @property
    def node(self) -> Manifest | None:
        """The one node; None while there is none, or more than one."""
        return self.nodes[0] if len(self.nodes) == 1 else None


def observe(mirror: Mirror, key: Key, *, pools: KnowsPools) -> Observed | None:
    """What is seen of the Machine ``key`` names; None if there is none."""
    machine = mirror.get(MACHINE, key.name)
    if machine is None:
        return None
    meta = machine["metadata"]
    return Observed(
        machine=machine,
        subject=Subject(Ref.of(machine), meta["uid"], meta.get("generation", 0), deleting="deletionTimestamp" in meta),
        has_finalizer=labels.TERMINATION_FINALIZER in meta.get("finalizers", ()),
        conditions=by_type((machine.get("status") or {}).get("conditions") or ()),
        pool=pools.known(key.name),
        nodes=tuple(node for node in mirror.all(NODE) if _is_of(node, key.name)),
    )


def _is_of(node: Manifest, pool: str) -> bool:
    own = node["metadata"].get("labels") or {}
    return own.get(labels.AGENT_POOL) == pool and bool(node["spec"].get("providerID"))
