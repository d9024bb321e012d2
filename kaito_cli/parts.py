"""The objects behind a Workspace, each said in one line: what it is, how far it is, and why no further."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type
from kaito_operator.plan import Manifest

LIFECYCLE = ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")
"""The conditions of a Machine in the order in which Karpenter makes them true."""
BROKEN = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
"""The kubelet's reasons for a waiting container that do not pass by waiting alone."""


SERVER = "inference"
"""The container that serves."""


class State(StrEnum):
    """How a part is."""

    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Item:
    """One part and the parts that explain it; ``since`` is a timestamp, "" where there is none."""

    what: str
    state: State
    reason: str = ""
    message: str = ""
    since: str = ""
    parts: tuple["Item", ...] = ()


def machine(seen: Manifest, *, nodes: Mapping[str, Manifest]) -> Item:
    """A Machine: the first step of its life that is not done; below it its Node."""
    meta, status = seen["metadata"], seen.get("status", {})
    conditions = by_type(status.get("conditions", []))
    size = meta.get("labels", {}).get(labels.INSTANCE_TYPE) or _required(seen, labels.INSTANCE_TYPE)
    what = f"Machine {meta['name']} ({size})" if size else f"Machine {meta['name']}"
    parts = tuple(node(found) for name in [status.get("nodeName")] if name and (found := nodes.get(name)))
    if "deletionTimestamp" in meta:
        return Item(what, State.WAITING, "Deleting", "", meta["deletionTimestamp"], parts)
    if not conditions:
        return Item(
            what, State.WAITING, "Asked for", "no provisioner has answered yet", meta["creationTimestamp"], parts
        )
    open_steps = [c for name in LIFECYCLE if (c := conditions.get(name)) and c["status"] != "True"]
    if open_steps:
        return replace(condition(open_steps[0], done=State.DONE), what=what, parts=parts)
    return Item(what, State.DONE, "Ready", "", conditions.get("Ready", {}).get("lastTransitionTime", ""), parts)


def node(seen: Manifest) -> Item:
    """A Node: whether it is Ready, and its GPUs."""
    gpus = seen.get("status", {}).get("allocatable", {}).get(labels.GPU_RESOURCE)
    what = f"Node {seen['metadata']['name']}" + (
        f" ({gpus} GPUs)" if gpus and gpus != "1" else " (1 GPU)" if gpus else ""
    )
    ready = by_type(seen.get("status", {}).get("conditions", [])).get("Ready")
    if ready is None:
        return Item(what, State.WAITING, "Registered", "", seen["metadata"]["creationTimestamp"])
    since = ready.get("lastTransitionTime", "")
    if ready["status"] == "True":
        return Item(what, State.DONE, "Ready", "", since)
    return Item(what, State.WAITING, ready.get("reason", "NotReady"), ready.get("message", ""), since)


def workload(seen: Manifest, *, pods: Iterable[Manifest]) -> Item:
    """A Deployment: how many of its pods are ready; below it the pods."""
    wanted, ready = seen["spec"].get("replicas", 1), seen.get("status", {}).get("readyReplicas", 0)
    parts = tuple(pod(p) for p in sorted(pods, key=lambda p: p["metadata"]["name"]))
    refused = by_type(seen.get("status", {}).get("conditions", [])).get("ReplicaFailure", {})
    state = State.DONE if ready >= wanted else _worst(parts)
    what = f"{seen['kind']} {seen['metadata']['name']} ({ready}/{wanted} ready)"
    if refused.get("status") == "True":
        return Item(what, State.FAILED, refused.get("reason", ""), refused.get("message", ""), parts=parts)
    return Item(what, state, since=seen["metadata"]["creationTimestamp"], parts=parts)


def job(seen: Manifest, *, pods: Iterable[Manifest]) -> Item:
    """A tuning Job: done, given up and why, or at work; below it the pods that are not done."""
    conditions = by_type(seen.get("status", {}).get("conditions", []))
    what, since = f"Job {seen['metadata']['name']}", seen["metadata"]["creationTimestamp"]
    if (complete := conditions.get("Complete", {})).get("status") == "True":
        return Item(what, State.DONE, "Complete", "", complete.get("lastTransitionTime", since))
    parts = tuple(pod(p) for p in sorted(pods, key=lambda p: p["metadata"]["name"]))
    failed = conditions.get("Failed", {})
    if failed.get("status") == "True":
        told = failed.get("message", "")
        return Item(
            what, State.FAILED, failed.get("reason", "Failed"), told, failed.get("lastTransitionTime", since), parts
        )
    return Item(what, _worst(parts), since=since, parts=parts)


def pod(seen: Manifest) -> Item:
    """A pod: the first container that is not as it should be, in the kubelet's or the scheduler's words."""
    meta, status = seen["metadata"], seen.get("status", {})
    what, since = f"Pod {meta['name']}", meta["creationTimestamp"]
    if "deletionTimestamp" in meta:
        return Item(what, State.WAITING, "Terminating", "", meta["deletionTimestamp"])
    conditions = by_type(status.get("conditions", []))
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        reason = scheduled.get("reason", "Unschedulable")
        return Item(
            what, State.FAILED, reason, scheduled.get("message", ""), scheduled.get("lastTransitionTime", since)
        )
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    troubles = (trouble for c in containers if (trouble := _trouble(c, what=what, since=since)))
    first = next(troubles, None)
    if first is not None:
        return first
    ready = conditions.get("Ready", {})
    if ready.get("status") == "True":
        return Item(what, State.DONE, "Ready", _restarts(containers), ready.get("lastTransitionTime", since))
    return Item(what, State.WAITING, status.get("phase", "Pending"), status.get("message", ""), since)


def condition(seen: Mapping[str, Any], *, done: State = State.DONE) -> Item:
    """A status condition as it stands."""
    state = done if seen["status"] == "True" else State.WAITING
    return Item(
        seen["type"], state, seen.get("reason", ""), seen.get("message", ""), seen.get("lastTransitionTime", "")
    )


def _trouble(container: Mapping[str, Any], *, what: str, since: str) -> Item | None:
    """What keeps one container from serving; None if nothing does, or if it ended as it should."""
    state = container.get("state", {})
    last = _ended(container.get("lastState", {}).get("terminated"))
    if waits := state.get("waiting"):
        reason = waits.get("reason", "Waiting")
        told = "; ".join(text for text in (last, waits.get("message", "")) if text)
        return Item(what, State.FAILED if reason in BROKEN else State.WAITING, reason, told, since)
    if (ended := state.get("terminated")) and ended.get("exitCode"):
        return Item(what, State.FAILED, ended.get("reason", "Error"), _ended(ended), ended.get("finishedAt") or since)
    if (runs := state.get("running")) and not container.get("ready"):
        loads = container.get("name", SERVER) == SERVER
        doing = "the container runs, the model is not ready yet" if loads else f"{container['name']} runs"
        told = "; ".join(text for text in (doing, last) if text)
        return Item(what, State.WAITING, "Loading" if loads else "Running", told, runs.get("startedAt") or since)
    return None


def _ended(terminated: Mapping[str, Any] | None) -> str:
    if not terminated:
        return ""
    word = "" if terminated.get("reason") in {None, "Error", "Completed"} else f" ({terminated['reason']})"
    said = " ".join(terminated.get("message", "").split())
    return f"last exit code {terminated.get('exitCode')}{word}" + (f": {said}" if said else "")


def _restarts(containers: Iterable[Mapping[str, Any]]) -> str:
    times = sum(c.get("restartCount", 0) for c in containers)
    return f"restarted {times} time{'s' if times > 1 else ''}" if times else ""


def _worst(parts: Iterable[Item]) -> State:
    return State.FAILED if any(p.state is State.FAILED for p in parts) else State.WAITING


def _required(machine: Manifest, key: str) -> str:
    values = (r.get("values", [""])[0] for r in machine.get("spec", {}).get("requirements", []) if r["key"] == key)
    return next(values, "")
