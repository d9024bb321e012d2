"""Objects of the cluster as far as a Workspace cares about them: read once from JSON, then frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type, moment
from kaito_operator.api.kinds import BY_NAME, NODECLAIM, Kind
from kaito_operator.plan import Key, Manifest

STEPS = {step: f"Machine{step}" for step in ("Launched", "Registered", "Initialized")}
"""A NodeClaim's conditions → a Machine's."""
Conditions = Mapping[str, Mapping[str, Any]]


def is_true(conditions: Conditions, type: str) -> bool:
    """Whether the condition of this type is there and True."""
    return conditions.get(type, {}).get("status") == "True"


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


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container's process ended."""

    exit_code: int
    reason: str
    message: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod. ``waits`` is the kubelet's reason for not starting it, "" if there is none."""

    name: str
    image: str
    ready: bool
    runs: bool
    started: bool
    restarts: int
    waits: str
    waits_message: str
    ended: Ended | None
    """The last end: of this run, else of the one before."""
    init: bool = False
    """Such a one is asked by no probe; the kubelet says that it has started, and is not ready, as long as it runs."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the Workspace."""

    name: str
    component: str
    node_name: str
    phase: str
    reason: str
    message: str
    deleting: bool
    conditions: Conditions
    containers: tuple[Container, ...]
    """Init containers first."""
    created_at: datetime
    address: str
    owner_uid: str
    """Of its controller, a Job or a ReplicaSet."""
    secrets: tuple[str, ...]
    """Secrets that it mounts."""
    told: str = ""
    """How far its program says that it is; "" if it has said nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """A tuning Job of the Workspace."""

    name: str
    uid: str
    deleting: bool
    complete: bool
    failed: str
    """Why Kubernetes gave it up; "" while it has not."""
    failed_at: datetime | None
    failed_pods: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A training under way, as the trainer tells it."""

    step: int
    steps: int
    loss: str
    eta_seconds: int | None
    epoch: str = ""
    tokens_per_second: int | None = None
    peak_memory: str = ""

    def __str__(self) -> str:
        loss = f", loss {self.loss}" if self.loss else ""
        left = f", about {round(self.eta_seconds / 60)} min left" if self.eta_seconds and self.eta_seconds >= 60 else ""
        return f"step {self.step} of {self.steps}{loss}{left}" if self.steps else "model and data are read"


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


def pod(manifest: Manifest) -> Pod:
    """Reads a Pod."""
    meta, spec, status = manifest["metadata"], manifest.get("spec") or {}, manifest.get("status") or {}
    return Pod(
        name=meta["name"],
        component=(meta.get("labels") or {}).get(labels.APP_COMPONENT, ""),
        node_name=spec.get("nodeName", ""),
        phase=status.get("phase", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        deleting="deletionTimestamp" in meta,
        conditions=by_type(status.get("conditions") or ()),
        containers=_containers(status),
        owner_uid=next((o["uid"] for o in meta.get("ownerReferences") or () if o.get("controller")), ""),
        address=status.get("podIP", ""),
        secrets=tuple(v["secret"]["secretName"] for v in spec.get("volumes") or () if "secret" in v),
        created_at=moment(meta["creationTimestamp"]),
    )


def job(manifest: Manifest) -> Job:
    """Reads a Job."""
    meta, status = manifest["metadata"], manifest.get("status") or {}
    conditions = by_type(status.get("conditions") or ())
    failed = conditions.get("Failed", {})
    return Job(
        name=meta["name"],
        uid=meta["uid"],
        deleting="deletionTimestamp" in meta,
        complete=is_true(conditions, "Complete"),
        failed=(failed.get("reason") or "Failed") if failed.get("status") == "True" else "",
        failed_at=moment(failed["lastTransitionTime"]) if failed.get("status") == "True" else None,
        failed_pods=status.get("failed", 0),
    )


def _containers(status: Mapping[str, Any]) -> tuple[Container, ...]:
    before, then = status.get("initContainerStatuses") or (), status.get("containerStatuses") or ()
    return (*(_container(each, init=True) for each in before), *map(_container, then))


def _container(status: Mapping[str, Any], *, init: bool = False) -> Container:
    state, before = status.get("state") or {}, status.get("lastState") or {}
    waiting = state.get("waiting") or {}
    return Container(
        name=status["name"],
        image=status.get("image", ""),
        ready=status.get("ready", False),
        runs="running" in state,
        started=bool(status.get("started")),
        restarts=status.get("restartCount", 0),
        waits=waiting.get("reason", ""),
        waits_message=waiting.get("message", ""),
        ended=_ended(state.get("terminated") or before.get("terminated")),
        init=init,
    )


def _ended(terminated: Mapping[str, Any] | None) -> Ended | None:
    if terminated is None:
        return None
    at = moment(terminated["finishedAt"]) if terminated.get("finishedAt") else None
    return Ended(terminated.get("exitCode", 0), terminated.get("reason", ""), terminated.get("message", ""), at)
