"""Nodes and Machines as far as a Workspace cares about them: read once from JSON, then frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import Conditions, by_type, is_true, moment
from kaito_operator.api.kinds import BY_NAME, NODECLAIM, Kind
from kaito_operator.plan import Key, Manifest

STEPS = {step: f"Machine{step}" for step in ("Launched", "Registered", "Initialized")}
"""A NodeClaim's conditions → a Machine's."""


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps pods off a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node; ``holder`` is the Workspace whose reservation labels it bears."""

    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    conditions: Conditions
    created_at: datetime
    deleting: bool
    unschedulable: bool
    gpus: int
    """``nvidia.com/gpu`` that pods can have; 0 while the device plugin does not say."""
    has_gpus: bool
    """Whether it has any at all, also while the device plugin restarts."""
    holder: Key | None
    labelled_by_us: bool
    """Whether our manager put the reservation there: what others put there is not ours to take away."""
    undisrupted: bool
    """Whether Karpenter is told to leave it alone."""

    @property
    def ready(self) -> bool:
        """Whether its kubelet says that it is."""
        return is_true(self.conditions, "Ready")


@dataclass(frozen=True, slots=True)
class Machine:
    """A Machine or NodeClaim that bears the labels of the Workspace."""

    kind: Kind
    name: str
    uid: str
    owner_uid: str
    """The uid of the Workspace it was made for; "" for KAITO's."""
    instance_type: str
    created_at: datetime
    deleting: bool
    conditions: Conditions
    node_name: str
    slot: int | None = None
    """Which of the Workspace's places it was made for; None if it does not say."""
    attempt: int = 1

    @property
    def ready(self) -> bool:
        """Whether Karpenter's Ready is True. It stays so while the object is being deleted."""
        return is_true(self.conditions, "Ready")

    @property
    def launch_failed(self) -> bool:
        """Whether Karpenter has tried to launch a claim in vain: it says Unknown, and has the provider's reason."""
        launched = self.conditions.get("MachineLaunched", {})
        waits = launched.get("reason", "") in ("", "AwaitingReconciliation")
        return self.kind == NODECLAIM and launched.get("status") == "Unknown" and not waits

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.name}"


def holder(manifest: Manifest) -> Key | None:
    """Whose reservation a node bears."""
    own = manifest["metadata"].get("labels") or {}
    name, namespace = own.get(labels.WORKSPACE), own.get(labels.WORKSPACE_NAMESPACE)
    return Key(namespace, name) if name and namespace else None


def node(manifest: Manifest) -> Node:
    """Reads a Node."""
    meta, spec, status = manifest["metadata"], manifest.get("spec") or {}, manifest.get("status") or {}
    return Node(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        labels=meta.get("labels") or {},
        taints=tuple(Taint(t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or ()),
        conditions=by_type(status.get("conditions") or ()),
        created_at=moment(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        unschedulable=spec.get("unschedulable", False),
        gpus=int((status.get("allocatable") or {}).get(labels.GPU_RESOURCE, 0)),
        has_gpus=(status.get("capacity") or {}).get(labels.GPU_RESOURCE, "0") != "0",
        holder=holder(manifest),
        labelled_by_us=any(_says_workspace(entry) for entry in meta.get("managedFields") or ()),
        undisrupted=(meta.get("annotations") or {}).get(labels.DO_NOT_DISRUPT) == "true",
    )


def _says_workspace(entry: Mapping[str, Any]) -> bool:
    own = entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:labels", {})
    return entry.get("manager") == labels.WORKSPACE_MANAGER and f"f:{labels.WORKSPACE}" in own


def machine(manifest: Manifest) -> Machine:
    """Reads a Machine, or a NodeClaim: its steps have shorter names, and are read as a Machine's."""
    meta, status = manifest["metadata"], manifest.get("status") or {}
    requirements = (manifest.get("spec") or {}).get("requirements") or ()
    sizes = [r["values"][0] for r in requirements if r["key"] == labels.INSTANCE_TYPE and r.get("values")]
    told = meta.get("annotations") or {}
    return Machine(
        kind=BY_NAME[manifest["apiVersion"], manifest["kind"]],
        name=meta["name"],
        uid=meta["uid"],
        owner_uid=told.get(labels.WORKSPACE_UID, ""),
        instance_type=sizes[0] if sizes else "",
        created_at=moment(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        conditions=by_type({**c, "type": STEPS.get(c["type"], c["type"])} for c in status.get("conditions") or ()),
        node_name=status.get("nodeName", ""),
        slot=_number(told.get(labels.SLOT)),
        attempt=_number(told.get(labels.ATTEMPT)) or 1,
    )


def _number(text: str | None) -> int | None:
    """A number below a million that an annotation gives; None if it is none."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 6 else None
