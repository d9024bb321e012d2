"""Pods and tuning Jobs as far as a Workspace cares about them: read once from JSON, then frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import Conditions, by_type, is_true, moment
from kaito_operator.plan import Manifest


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
