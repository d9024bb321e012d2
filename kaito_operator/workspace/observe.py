"""From the mirror to one frozen value: all that a plan for one Workspace may know."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api import labels, validation
from kaito_operator.api.conditions import by_type, moment
from kaito_operator.api.kinds import DEPLOYMENT, MACHINE, NODE, POD, SERVICE, WORKSPACE
from kaito_operator.api.validation import Problem
from kaito_operator.api.workspace import Workspace
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest, Ref, Subject


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """A Machine of this Workspace."""

    name: str
    uid: str
    deleting: bool
    slot: int
    attempt: int
    node: str
    conditions: Mapping[str, Mapping[str, Any]]

    @property
    def ready(self) -> bool:
        """Whether Karpenter's Ready is True and nothing takes it away."""
        return not self.deleting and self.conditions.get("Ready", {}).get("status") == "True"


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node of the cluster."""

    name: str
    uid: str
    labels: Mapping[str, str]
    ready: bool
    deleting: bool
    gpus: int
    """Allocatable nvidia.com/gpu."""
    reserved_for: Key | None
    reserved_by_us: bool
    """Whether the reservation labels are ours to take off, which those of a bought node are not."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One Workspace and everything it touches, at one moment."""

    key: Key
    subject: Subject
    deleted_at: datetime | None
    has_finalizer: bool
    annotations: Mapping[str, str]
    spec: Workspace | tuple[Problem, ...]
    status: Manifest
    machines: tuple[MachineSeen, ...]
    nodes: tuple[NodeSeen, ...]
    deployment: Manifest | None
    service: Manifest | None
    pods: tuple[Manifest, ...]


def observe(mirror: Mirror, key: Key) -> Observed | None:
    """What is seen of the Workspace ``key`` names; None if there is none."""
    manifest = mirror.get(WORKSPACE, key.name, key.namespace)
    if manifest is None:
        return None
    meta = manifest["metadata"]
    return Observed(
        key=key,
        subject=Subject(Ref.of(manifest), meta["uid"], meta.get("generation", 0), deleting="deletionTimestamp" in meta),
        deleted_at=moment(meta["deletionTimestamp"]) if "deletionTimestamp" in meta else None,
        has_finalizer=labels.WORKSPACE_FINALIZER in meta.get("finalizers", ()),
        annotations=meta.get("annotations") or {},
        spec=validation.parse(manifest),
        status=manifest.get("status") or {},
        machines=tuple(_machine(m) for m in mirror.of_workspace(MACHINE, key)),
        nodes=tuple(_node(n) for n in mirror.all(NODE)),
        deployment=mirror.get(DEPLOYMENT, key.name, key.namespace),
        service=mirror.get(SERVICE, key.name, key.namespace),
        pods=tuple(mirror.of_workspace(POD, key)),
    )


def owned_by(manifest: Manifest, uid: str) -> bool:
    """Whether the object's controller is the Workspace of this uid."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)


def _machine(manifest: Manifest) -> MachineSeen:
    meta, status = manifest["metadata"], manifest.get("status") or {}
    annotations = meta.get("annotations") or {}
    return MachineSeen(
        name=meta["name"],
        uid=meta["uid"],
        deleting="deletionTimestamp" in meta,
        slot=int(annotations.get(labels.SLOT, 0)),
        attempt=int(annotations.get(labels.ATTEMPT, 1)),
        node=status.get("nodeName", ""),
        conditions=by_type(status.get("conditions") or ()),
    )


def _node(manifest: Manifest) -> NodeSeen:
    meta, status = manifest["metadata"], manifest.get("status") or {}
    own = meta.get("labels") or {}
    reserved = labels.WORKSPACE in own and labels.WORKSPACE_NAMESPACE in own
    return NodeSeen(
        name=meta["name"],
        uid=meta["uid"],
        labels=own,
        ready=by_type(status.get("conditions") or ()).get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in meta,
        gpus=int((status.get("allocatable") or {}).get(labels.GPU_RESOURCE, 0)),
        reserved_for=Key(own[labels.WORKSPACE_NAMESPACE], own[labels.WORKSPACE]) if reserved else None,
        reserved_by_us=any(
            entry.get("manager") == labels.WORKSPACE_MANAGER
            and f"f:{labels.WORKSPACE}" in entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:labels", {})
            for entry in meta.get("managedFields") or ()
        ),
    )
