"""Why it is not ready, down to the leaf: from what was seen to a reason, a message, and what to do about it.

Ordered tables of rules: the first that answers is the cause. ``docs/reference/conditions.md`` lists every reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaito_operator.api.conditions import Truth, by_type
from kaito_operator.plan import Manifest
from kaito_operator.workspace.observe import MachineSeen, NodeSeen


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason (one word), what happened to which object, and whether it is failure or only progress."""

    reason: str
    message: str
    status: Truth = "False"


STEPS = (("MachineLaunched", "asked for"), ("MachineRegistered", "launched"), ("MachineInitialized", "registered"))
"""Karpenter's conditions in their order, and what a Machine is while the condition is not True."""


def machine_progress(machine: MachineSeen) -> str:
    """What a Machine is at: asked for, launched, registered, initialized or ready."""
    for condition, state in STEPS:
        if machine.conditions.get(condition, {}).get("status") != "True":
            return state
    return "ready" if machine.ready else "initialized"


def machines(seen: Sequence[MachineSeen], *, missing: int) -> Cause:
    """Why there are not enough nodes yet, told by the Machine that fails, else by the one that is furthest behind."""
    alive = [machine for machine in seen if not machine.deleting]
    for machine in alive:
        for condition, _ in STEPS:
            found = machine.conditions.get(condition, {})
            if found.get("status") == "False" and found.get("reason") not in PROGRESS:
                return Cause(
                    found.get("reason", "MachineFailed"), f"Machine {machine.name}: {found.get('message', '')}"
                )
    if missing and not alive:
        return Cause("CreateMachinePending", f"asking for {missing} Machine(s)", "Unknown")
    waiting = [f"Machine {m.name} is {machine_progress(m)}{_detail(m)}" for m in alive if not m.ready]
    if not waiting:
        return Cause("WaitingForNode", "the Machines are ready; their nodes are not usable yet", "Unknown")
    return Cause("CreateMachinePending", "; ".join(waiting), "Unknown")


PROGRESS = {
    "", "Creating", "Launching", "MachineNotLaunched", "NodeNotFound", "NodeNotReady", "StartupTaintsExist",
    "KnownEphemeralTaintsExist", "ResourceNotRegistered",
}  # fmt: skip
"""Reasons of a False condition that Karpenter v0.29 gives while all is well (facts of its lifecycle controller)."""


def _detail(machine: MachineSeen) -> str:
    for condition, _ in STEPS:
        found = machine.conditions.get(condition, {})
        if found.get("status") != "True":
            return f" ({found['message']})" if found.get("message") else ""
    return ""


def own_nodes(*, have: int, want: int, selector: str) -> Cause:
    """A Workspace that brings its own nodes has too few."""
    told = f"{have} of {want} nodes are ready, free and match {selector}; label more nodes, or set instanceType to buy"
    return Cause("NotEnoughNodes", told)


def gpus(nodes: Sequence[NodeSeen]) -> Cause:
    """Nodes are there, their GPUs are not."""
    names = ", ".join(node.name for node in nodes)
    told = f"nvidia.com/gpu is not allocatable yet on {names}; is the NVIDIA device plugin installed?"
    return Cause("DevicePluginMissing", told)


def pods(seen: Sequence[Manifest]) -> Cause:
    """Why the workload is not available, told by its worst pod."""
    if not seen:
        return Cause("WorkspaceInferenceStatusPending", "waiting for the pod to be created", "Unknown")
    for rule in POD_RULES:
        for pod in seen:
            cause = rule(pod)
            if cause is not None:
                return cause
    name = seen[0]["metadata"]["name"]
    return Cause("ModelLoading", f"pod {name} runs and loads the model", "Unknown")


PodRule = Callable[[Manifest], Cause | None]

WAITING = {
    "ErrImagePull": ("ImagePullError", "check the image's name, the registry and imagePullSecrets"),
    "ImagePullBackOff": ("ImagePullError", "check the image's name, the registry and imagePullSecrets"),
    "InvalidImageName": ("ImagePullError", "write the image as registry/repository:tag"),
    "ErrImageNeverPull": ("ImagePullError", "the image is not on the node"),
    "CreateContainerConfigError": ("ContainerStartError", "a Secret or ConfigMap that the pod names may be missing"),
    "CreateContainerError": ("ContainerStartError", "see the message"),
    "RunContainerError": ("ContainerStartError", "see the message"),
}


def _unschedulable(pod: Manifest) -> Cause | None:
    scheduled = by_type(pod.get("status", {}).get("conditions") or ()).get("PodScheduled", {})
    if scheduled.get("status") != "False":
        return None
    return Cause("Unschedulable", f"pod {_name(pod)}: {scheduled.get('message', 'no node takes it')}")


def _evicted(pod: Manifest) -> Cause | None:
    status = pod.get("status", {})
    if status.get("reason") != "Evicted":
        return None
    return Cause("PodEvicted", f"pod {_name(pod)} was evicted: {status.get('message', '')}")


def _cannot_start(pod: Manifest) -> Cause | None:
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in WAITING:
            reason, todo = WAITING[waiting["reason"]]
            return Cause(
                reason,
                f"pod {_name(pod)}: {waiting.get('message') or waiting['reason']}; {todo}",
            )
    return None


def _out_of_memory(pod: Manifest) -> Cause | None:
    for container in _containers(pod):
        if _last_end(container).get("reason") == "OOMKilled":
            told = f"container {container['name']} of pod {_name(pod)}: out of memory; take a larger instanceType"
            return Cause("ContainerOOMKilled", told)
    return None


def _crashed(pod: Manifest) -> Cause | None:
    for container in _containers(pod):
        end = _last_end(container)
        if end and end.get("exitCode", 0) != 0:
            said = (end.get("message") or "").strip().splitlines()
            last = f": {said[-1][:256]}" if said else f"; see kubectl logs --previous {_name(pod)}"
            told = f"container {container['name']} of pod {_name(pod)} ended with exit code {end['exitCode']}{last}"
            return Cause("ContainerCrashLoopBackOff", told)
    return None


POD_RULES: tuple[PodRule, ...] = (_evicted, _unschedulable, _cannot_start, _out_of_memory, _crashed)


def _containers(pod: Manifest) -> list[Mapping[str, Any]]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _last_end(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """How it ended, if it is not running (well) again."""
    if container.get("ready"):
        return {}
    now: Mapping[str, Any] = container.get("state", {}).get("terminated") or {}
    return now or container.get("lastState", {}).get("terminated") or {}


def _name(pod: Manifest) -> str:
    name: str = pod["metadata"]["name"]
    return name
