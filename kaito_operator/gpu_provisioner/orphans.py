"""What is left over, and whether the cluster looks well enough to believe it: pools without a Machine, Nodes likewise.

Every doubt keeps: a missing timestamp, a missing tag, a cluster that is stopped or has lost many of its nodes. KAITO's
collector once took the pools of a cluster that had just been started for leaks (kaito #2075).
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.conditions import moment
from kaito_operator.fleet import is_ready
from kaito_operator.gpu_provisioner.agent_pool import CLUSTER_TAG, MACHINE_TAG, WORKSPACE_TAG
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.nodes import is_held, is_leaving
from kaito_operator.plan import Manifest

OWNERSHIP = (CLUSTER_TAG, WORKSPACE_TAG, MACHINE_TAG)
UNREADY = 0.45
"""The share of nodes that are not Ready above which nothing is collected (cluster-autoscaler's default)."""
SIGHTINGS = 3
"""So many sweeps in a row have to find a thing left over."""


def why_not(pools: Iterable[AgentPool], nodes: Sequence[Manifest]) -> str:
    """Why nothing may be collected now; empty if the cluster looks well."""
    if stopped := sorted(pool.name for pool in pools if pool.power == "Stopped"):
        return f"agent pool {stopped[0]} is stopped"
    unready = [node for node in nodes if not is_ready(node)]
    if not nodes or len(unready) / len(nodes) > UNREADY:
        return f"{len(unready)} of {len(nodes)} nodes are not Ready"
    return ""


def left_pools(
    pools: Iterable[AgentPool], uids: AbstractSet[str], *, cluster: str, now: datetime, grace_seconds: float
) -> list[AgentPool]:
    """Pools that bear all three tags, of this cluster and of no Machine of these uids, and are old enough."""
    return [
        pool
        for pool in pools
        if all(tag in pool.tags for tag in OWNERSHIP)
        and pool.tags[CLUSTER_TAG] == cluster
        and pool.tags[MACHINE_TAG]
        and pool.tags[MACHINE_TAG] not in uids
        and pool.state != "Deleting"
        and pool.asked_at is not None
        and (now - pool.asked_at).total_seconds() >= grace_seconds
    ]


def left_nodes(
    nodes: Iterable[Manifest], uids: AbstractSet[str], pools: AbstractSet[str], *, now: datetime, grace_seconds: float
) -> list[Manifest]:
    """Nodes that we claimed for a Machine that is gone, that are not Ready, and whose pool is gone too."""
    return [
        node
        for node in nodes
        if (owners := claimed_by(node))
        and not owners & uids
        and not is_ready(node)
        and pool_of(node) not in pools
        and "creationTimestamp" in node["metadata"]
        and not is_leaving(node)
        and (now - moment(node["metadata"]["creationTimestamp"])).total_seconds() >= grace_seconds
    ]


def held_nodes(nodes: Iterable[Manifest], uids: AbstractSet[str], pools: AbstractSet[str]) -> list[Manifest]:
    """Nodes that somebody has deleted and that our finalizer keeps, though Machine and pool are gone.

    To let go of one is no collection: no doubt about the cluster's health keeps it.
    """
    return [
        node
        for node in nodes
        if is_leaving(node)
        and is_held(node)
        and (owners := claimed_by(node))
        and not owners & uids
        and pool_of(node) not in pools
    ]


def pool_of(node: Manifest) -> str:
    """The name of the agent pool that it is a machine of; empty if it is of none."""
    return str((node["metadata"].get("labels") or {}).get(labels.AGENT_POOL, ""))


def claimed_by(node: Manifest) -> set[str]:
    """The uids of the Machines and claims that it belongs to; none if we never registered it."""
    meta = node["metadata"]
    if (meta.get("labels") or {}).get(labels.REGISTERED) != "true" or labels.AGENT_POOL not in meta["labels"]:
        return set()
    owners = meta.get("ownerReferences") or ()
    return {owner["uid"] for owner in owners if owner["kind"] in ("Machine", "NodeClaim")}


@dataclass(frozen=True, slots=True)
class Left:
    """What one sweep finds."""

    pools: tuple[AgentPool, ...] = ()
    nodes: tuple[Manifest, ...] = ()
    held: tuple[Manifest, ...] = ()
    """Nodes that wait for us to let go."""


@dataclass(frozen=True, slots=True)
class Sightings:
    """How often in a row each thing has been found left over."""

    counts: Mapping[str, int] = field(default_factory=dict)

    def again(self, found: Iterable[str]) -> "Sightings":
        """After another sweep; what is not found this time begins anew."""
        return Sightings({uid: self.counts.get(uid, 0) + 1 for uid in found})

    def sure(self, uid: str) -> bool:
        """Whether it has been found often enough."""
        return self.counts.get(uid, 0) >= SIGHTINGS
