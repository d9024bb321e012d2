"""From mirror and pool knowledge to one frozen value: all that a plan for one Machine may know."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type
from kaito_operator.api.kinds import MACHINE, NODE, POD, VOLUME_ATTACHMENT, Kind
from kaito_operator.api.nodeclaim import KAITO_NODE_CLASS
from kaito_operator.fleet import Fleet, fleet, is_ready
from kaito_operator.gpu_provisioner.agent_pool import MACHINE_TAG
from kaito_operator.gpu_provisioner.known import Known
from kaito_operator.gpu_provisioner.nodes import bears_our_mark, is_claimed, is_held, is_leaving
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest, Ref, Selection, Subject


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
    fleet: Fleet = field(default_factory=Fleet)
    """All nodes of the cluster; counted only while one of these is not Ready."""
    pods: tuple[Manifest, ...] = ()
    """The pods on the nodes that are to be emptied; read live, and only then."""
    attachments: tuple[Manifest, ...] = ()
    """The VolumeAttachments of those nodes."""

    @property
    def node(self) -> Manifest | None:
        """The one node; None while there is none, or more than one."""
        nodes = [node for node in self.nodes if node not in self.swapped]
        return nodes[0] if len(nodes) == 1 else None

    @property
    def swapped(self) -> tuple[Manifest, ...]:
        """Nodes in whose place the pool has another, as after an upgrade by AKS: deleted, and not Ready any more."""
        dark = tuple(node for node in self.nodes if is_leaving(node) and not is_ready(node))
        return () if len(dark) == len(self.nodes) else dark

    @property
    def given_up(self) -> Manifest | None:
        """The node of ours that somebody has deleted, and that the finalizer keeps."""
        ours = (node for node in self.nodes if is_claimed(node, self.subject) and node not in self.swapped)
        return next((node for node in ours if is_leaving(node) and is_held(node)), None)


def last_seen(seen: Observed, what: str) -> str:
    """What is said of the pool, and why nothing newer is known if that is so."""
    return f"{what}, as last seen: {seen.pool.unseen}" if seen.pool.unseen else what


def observe(mirror: Mirror, key: Key, *, pools: KnowsPools, kind: Kind = MACHINE) -> Observed | None:
    """What is seen of the Machine, or claim, that ``key`` names; None if there is none that is ours."""
    machine = mirror.get(kind, key.name)
    if machine is None or not is_ours(machine):
        return None
    meta, read = machine["metadata"], mirror.read_for(key)
    nodes = tuple(node for node in mirror.all(NODE) if _is_of(node, key.name))
    return Observed(
        machine=machine,
        subject=Subject(Ref.of(machine), meta["uid"], meta.get("generation", 0), deleting="deletionTimestamp" in meta),
        has_finalizer=labels.TERMINATION_FINALIZER in meta.get("finalizers", ()),
        conditions=by_type((machine.get("status") or {}).get("conditions") or ()),
        pool=pools.known(key.name),
        nodes=nodes,
        fleet=Fleet() if all(map(is_ready, nodes)) else fleet(mirror.all(NODE)),
        pods=tuple(each for each in read if each["kind"] == POD.kind),
        attachments=tuple(each for each in read if each["kind"] == VOLUME_ATTACHMENT.kind),
    )


def is_ours(machine: Manifest) -> bool:
    """Whether it is for gpu-provisioner: by the label of its Workspace, or by the kind of its node class."""
    ref = (machine.get("spec") or {}).get("nodeClassRef") or {}
    labelled = labels.WORKSPACE in (machine["metadata"].get("labels") or {})
    return labelled or (ref.get("group"), ref.get("kind")) == KAITO_NODE_CLASS


def reads(mirror: Mirror, key: Key, *, pools: KnowsPools, kind: Kind = MACHINE) -> Iterator[Selection]:
    """What is on the nodes of a Machine that is being deleted, as long as they can be emptied."""
    seen = observe(mirror, key, pools=pools, kind=kind)
    if seen is None:
        return
    nodes = to_empty(seen)
    for node in nodes:
        yield Selection(POD.api_version, POD.kind, fields={"spec.nodeName": node["metadata"]["name"]})
    if nodes:
        yield Selection(VOLUME_ATTACHMENT.api_version, VOLUME_ATTACHMENT.kind)  # no field selector knows the node


def to_empty(seen: Observed) -> tuple[Manifest, ...]:
    """The nodes whose pods have to leave before the pool goes: ours, with a machine behind them. By the owner
    reference; where somebody took that off, by our label, if the pool is known for ours."""
    pool = seen.pool.pool
    ours = pool is not None and pool.tags.get(MACHINE_TAG) == seen.subject.uid
    going = seen.pool.absent_since is not None or (pool is not None and pool.state == "Deleting")
    if not seen.subject.deleting or not seen.has_finalizer or going:
        return ()
    return tuple(
        node for node in seen.nodes if is_claimed(node, seen.subject) or (ours and bears_our_mark(node, seen.subject))
    )


def nobodys(seen: Observed) -> tuple[Manifest, ...]:
    """The nodes that bear our label and no owner reference: ours only if their pool is."""
    return tuple(
        node for node in seen.nodes if bears_our_mark(node, seen.subject) and not is_claimed(node, seen.subject)
    )


def _is_of(node: Manifest, pool: str) -> bool:
    own = node["metadata"].get("labels") or {}
    return own.get(labels.AGENT_POOL) == pool and bool(node["spec"].get("providerID"))
