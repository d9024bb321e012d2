"""From mirror and pool knowledge to one frozen value: all that a plan for one Machine may know."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type, moment
from kaito_operator.api.kinds import MACHINE, NODE
from kaito_operator.gpu_provisioner.pools import Known
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest, Ref, Subject


class KnowsPools(Protocol):
    """Where pool knowledge comes from."""

    def known(self, name: str) -> Known:
        """What is known of a name."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One Machine, its pool and its node."""

    machine: Manifest
    subject: Subject
    has_finalizer: bool
    created: datetime
    conditions: Mapping[str, Mapping[str, Any]]
    pool: Known
    node: Manifest | None
    """The one node of the pool with a providerID; None while there is none, or more than one."""


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
        created=moment(meta["creationTimestamp"]),
        conditions=by_type((machine.get("status") or {}).get("conditions") or ()),
        pool=pools.known(key.name),
        node=_node(mirror, key.name),
    )


def _node(mirror: Mirror, pool: str) -> Manifest | None:
    """A pool may briefly hold a spare instance, so two nodes are as good as none."""
    nodes = [
        node
        for node in mirror.all(NODE)
        if (node["metadata"].get("labels") or {}).get(labels.AGENT_POOL) == pool and node["spec"].get("providerID")
    ]
    return nodes[0] if len(nodes) == 1 else None
