"""Builders of the objects a Workspace meets, as the API server has them; and what our own observe makes of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import count
from typing import Any

from kaito_operator.api.conditions import timestamp
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.observe import Observed, observe

Manifest = dict[str, Any]
NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
EARLIER = "2026-01-02T11:00:00Z"
JUST_NOW = "2026-01-02T11:59:00Z"
UID = "0b7c3e0a-workspace"
_versions = count(1000)


def meta(name: str, *, namespace: str = "", uid: str = "", labels: Mapping[str, str] | None = None) -> Manifest:
    """Metadata as a stored object has them."""
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": uid or f"uid-of-{name}",
        "resourceVersion": str(next(_versions)),
        "creationTimestamp": EARLIER,
        "generation": 1,
        **({"labels": dict(labels)} if labels else {}),
    }


def a_workspace(
    name: str = "chat",
    *,
    namespace: str = "team",
    uid: str = UID,
    preset: str = "smollm2-135m-instruct",
    instance_type: str | None = "Standard_D2s_v5",
    count: int = 1,
    match_labels: Mapping[str, str] | None = None,
    resource: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
    tuning: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    finalizer: bool = True,
    deleted_at: datetime | None = None,
    status: Mapping[str, Any] | None = None,
) -> Manifest:
    """A Workspace that serves a preset; ``inference`` or ``tuning`` given whole replace that."""
    served = {"preset": {"name": preset, "accessMode": "public"}}
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {
            **meta(name, namespace=namespace, uid=uid),
            **({"annotations": dict(annotations)} if annotations else {}),
            **({"finalizers": ["workspace.finalizer.kaito.sh"]} if finalizer else {}),
            **({"deletionTimestamp": timestamp(deleted_at)} if deleted_at else {}),
        },
        "resource": {
            "count": count,
            **({"instanceType": instance_type} if instance_type is not None else {}),
            "labelSelector": {"matchLabels": {"app": "chat"} if match_labels is None else dict(match_labels)},
            **(resource or {}),
        },
        **({} if tuning is not None and inference is None else {"inference": dict(inference or served)}),
        **({"tuning": dict(tuning)} if tuning is not None else {}),
        **({"status": dict(status)} if status is not None else {}),
    }


def condition(type: str, status: str, reason: str = "", message: str = "", *, since: str = EARLIER) -> Manifest:
    """One condition."""
    return {"type": type, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


MACHINE_STEPS = ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")


def machine_conditions(done: int, reason: str = "", message: str = "") -> list[Manifest]:
    """As gpu-provisioner writes them: ``done`` steps are True, the next is False with the reason."""
    true = [condition(step, "True", step) for step in MACHINE_STEPS[:done]]
    if done == len(MACHINE_STEPS):
        return true
    open_ = [condition(MACHINE_STEPS[done], "False", reason, message)]
    return [*true, *open_, *(condition(step, "False", "MachineNotLaunched") for step in MACHINE_STEPS[done + 1 :])]


@cache
def _places(uid: str) -> dict[str, tuple[int, int]]:
    """Slot and attempt by the name that follows from them."""
    return {machine_name(uid, slot=s, attempt=a): (s, a) for s in range(5) for a in range(1, 9)}


def _identity(name: str, owner_uid: str) -> Manifest:
    """The annotations that our operator gives a Machine; its name follows from them."""
    found = _places(owner_uid).get(name)
    told = {"kaito.sh/slot": str(found[0]), "kaito.sh/attempt": str(found[1])} if found else {}
    return {"kaito.sh/workspace-uid": owner_uid, **told} if owner_uid else {}


def a_machine(
    name: str,
    *,
    workspace: str = "chat",
    namespace: str = "team",
    owner_uid: str = UID,
    instance_type: str = "Standard_D2s_v5",
    node: str = "",
    conditions: Sequence[Manifest] = (),
    deleting: bool = False,
    created: str = EARLIER,
) -> Manifest:
    """A Machine of a Workspace."""
    return {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {
            **meta(name, labels={"kaito.sh/workspace": workspace, "kaito.sh/workspacenamespace": namespace}),
            "creationTimestamp": created,
            "annotations": _identity(name, owner_uid),
            "finalizers": ["karpenter.sh/termination"],
            **({"deletionTimestamp": EARLIER} if deleting else {}),
        },
        "spec": {
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [instance_type]},
            ]
        },
        **({"status": {"conditions": list(conditions), "nodeName": node}} if conditions or node else {}),
    }


def a_ready_machine(name: str, *, node: str, **others: Any) -> Manifest:
    """A Machine whose node has joined."""
    return a_machine(name, node=node, conditions=machine_conditions(4), **others)


def a_node(
    name: str,
    *,
    instance_type: str = "Standard_D2s_v5",
    labels: Mapping[str, str] | None = None,
    ready: bool = True,
    ready_since: str = "",
    gpus: int = 0,
    capacity: int | None = None,
    held_by: str = "",
    namespace: str = "team",
    labelled_by_us: bool = False,
    taints: Sequence[Manifest] = (),
    unschedulable: bool = False,
    pressures: Sequence[str] = (),
    annotations: Mapping[str, str] | None = None,
    pool: str = "",
) -> Manifest:
    """A node; with the label that the Workspaces here select by, unless ``labels`` says otherwise."""
    held = {"kaito.sh/workspace": held_by, "kaito.sh/workspacenamespace": namespace} if held_by else {}
    ours: Manifest = {"f:metadata": {"f:labels": {f"f:{key}": {} for key in held}}}
    said = "kubelet is posting ready status" if ready else "container runtime is down"
    since = ready_since or (EARLIER if ready else JUST_NOW)
    found = meta(
        name,
        labels={
            "node.kubernetes.io/instance-type": instance_type,
            "kubernetes.io/hostname": name,
            **({"app": "chat"} if labels is None else dict(labels)),
            **({"kubernetes.azure.com/agentpool": pool} if pool else {}),
            **held,
        },
    )
    managed = [{"manager": "kaito-operator", "operation": "Apply", "fieldsV1": ours}] if labelled_by_us else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {**found, "managedFields": managed, "annotations": dict(annotations or {})},
        "spec": {"taints": list(taints), **({"unschedulable": True} if unschedulable else {})},
        "status": {
            "conditions": [
                condition("Ready", "True" if ready else "False", "KubeletReady", said, since=since),
                *(condition(each, "True", f"KubeletHas{each}", "the kubelet is short") for each in pressures),
            ],
            "capacity": {"nvidia.com/gpu": str(gpus if capacity is None else capacity)},
            "allocatable": {"nvidia.com/gpu": str(gpus)},
        },
    }


def a_pod(
    name: str = "chat-6d9f-x2x4z",
    *,
    workspace: str = "chat",
    namespace: str = "team",
    node: str = "",
    phase: str = "Pending",
    conditions: Sequence[Manifest] = (),
    containers: Sequence[Manifest] = (),
    deleting: bool = False,
    **status: Any,
) -> Manifest:
    """A pod of the Deployment."""
    labels = {"kaito.sh/workspace": workspace, "app.kubernetes.io/component": "inference"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **meta(name, namespace=namespace, labels=labels),
            **({"deletionTimestamp": EARLIER} if deleting else {}),
        },
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "conditions": [condition("PodScheduled", "True"), *conditions] if node else list(conditions),
            "containerStatuses": list(containers),
            **status,
        },
    }


def a_container(
    *,
    ready: bool = False,
    started: bool = False,
    restarts: int = 0,
    image: str = "kaito/kaito-smollm2-135m-instruct:0.1.0",
    waiting: Manifest | None = None,
    terminated: Manifest | None = None,
    before: Manifest | None = None,
) -> Manifest:
    """The status of the server's container; it runs unless it waits or has ended."""
    if waiting is not None:
        state = {"waiting": waiting}
    elif terminated is not None:
        state = {"terminated": terminated}
    else:
        state = {"running": {"startedAt": EARLIER}}
    return {
        "name": "inference",
        "image": image,
        "ready": ready,
        "started": started,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": before} if before is not None else {},
    }


def stored(manifest: Mapping[str, Any], **status: Any) -> Manifest:
    """A manifest of ours as the API server would hold it."""
    own = manifest["metadata"]
    return {
        **manifest,
        "metadata": {**meta(own["name"], namespace=own.get("namespace", "")), **own},
        **({"status": status} if status else {}),
    }


def rolled_out(deployment: Mapping[str, Any]) -> Manifest:
    """A Deployment all of whose replicas are ready."""
    replicas = deployment["spec"]["replicas"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
    return stored(deployment, observedGeneration=1, **counts)


def seen_of(workspace: Mapping[str, Any], *others: Mapping[str, Any]) -> Observed:
    """What our observe makes of a cluster that holds these objects."""
    mirror = Mirror()
    for manifest in (workspace, *others):
        mirror.put(manifest)
    found = observe(mirror, Key(workspace["metadata"]["namespace"], workspace["metadata"]["name"]))
    if found is None:
        raise AssertionError("the Workspace is not in its own cluster")
    return found


def a_job(
    name: str, *, namespace: str = "team", complete: bool = False, failed: str = "", since: str = EARLIER
) -> Manifest:
    """A tuning Job of the Workspace chat; ``since``: when it was over, if it is."""
    failure = [condition("Failed", "True", failed, since=since)] if failed else []
    over = [condition("Complete", "True", since=since)] if complete else failure
    owner = {"apiVersion": "kaito.sh/v1alpha1", "kind": "Workspace", "name": "chat", "uid": UID, "controller": True}
    labels = {"kaito.sh/workspace": "chat", "app.kubernetes.io/component": "tuning"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**meta(name, namespace=namespace, labels=labels), "ownerReferences": [owner]},
        "spec": {},
        "status": {"conditions": over},
    }


TUNING_STEPS = ("download", "trainer", "publish")


def a_tuning_pod(
    job: str,
    *,
    uid: str = "",
    running: str = "",
    ended: tuple[str, int, str] | None = None,
    phase: str = "Pending",
    sandbox: bool = True,
) -> Manifest:
    """The pod of a tuning Job: one step runs, or has ended with this exit code and these last words."""
    labels = {
        "kaito.sh/workspace": "chat",
        "app.kubernetes.io/component": "tuning",
    }
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid or f"uid-of-{job}", "controller": True}
    statuses = [_step(name, running=running, ended=ended) for name in TUNING_STEPS]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**meta(f"{job}-abcde", namespace="team", labels=labels), "ownerReferences": [owner]},
        "spec": {"nodeName": "n", "volumes": [{"name": "push", "secret": {"secretName": "push"}}]},
        "status": {
            "phase": "Running" if running == "publish" else phase,
            "podIP": "10.244.1.7",
            "conditions": [
                condition("PodScheduled", "True"),
                condition("PodReadyToStartContainers", str(sandbox)),
                condition("ContainersReady", "False", "ContainersNotReady"),
            ],
            "initContainerStatuses": statuses[:-1],
            "containerStatuses": statuses[-1:],
        },
    }


def _step(name: str, *, running: str, ended: tuple[str, int, str] | None) -> Manifest:
    state: Manifest = {"waiting": {"reason": "PodInitializing"}}
    if name == running:
        state = {"running": {"startedAt": EARLIER}}
    elif ended is not None and name == ended[0]:
        state = {
            "terminated": {"exitCode": ended[1], "message": ended[2], "reason": "Error" if ended[1] else "Completed"}
        }
    started = name == running  # the kubelet says so of running init containers too
    return {
        "name": name, "image": "kaito/x:1", "ready": False, "started": started, "restartCount": 0, "state": state,
    }  # fmt: skip
