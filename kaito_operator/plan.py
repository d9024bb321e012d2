"""The words both controllers plan in: what is to be written, and when to look again.

A plan is a value. It is made by a pure function of what was seen, compared in tests, logged in one
line, and carried out by ``carry_out`` in a fixed order: finalizer on → apply → patch → evict → cloud → delete →
status → events → nodes released → finalizer off. Any prefix of that order is a safe place to crash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

Manifest = Mapping[str, Any]
"""A Kubernetes object, whole or partial, as JSON has it. Never mutated once it left its maker."""


class Key(NamedTuple):
    """Names one parent object in the queue; ``namespace`` is "" for cluster-scoped kinds."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Names one object in the cluster."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""

    @classmethod
    def of(cls, manifest: Manifest) -> "Ref":
        """The name of an object that carries its own apiVersion and kind."""
        meta = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], meta["name"], meta.get("namespace", ""))

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Subject:
    """The parent as the plan saw it. The second look compares it with the live object."""

    ref: Ref
    uid: str
    generation: int
    deleting: bool


class Finalizer(StrEnum):
    """What becomes of our finalizer on the parent."""

    KEEP = "keep"
    ADD = "add"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of ``manifest``.

    ``uid``: the uid of the object this updates. With it the apply is update-only: if the object is
    gone the API server answers a conflict instead of creating it again.
    ``buys``: the object costs money, so parent and object are read live before it is written.
    """

    manifest: Manifest
    uid: str | None = None
    buys: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """JSON patch of the version that was seen: for a list that others write too, which an apply would own whole."""

    ref: Ref
    version: str
    operations: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the API server said to an apply that can never succeed as it is: another try needs another manifest."""

    manifest: Manifest
    message: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object of this name and uid. ``gives_up``: it costs money, so the second look comes first."""

    ref: Ref
    uid: str
    gives_up: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Drop our finalizer from the object of this name and uid, which somebody deletes: nothing behind it is left."""

    ref: Ref
    uid: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Asks for the eviction of the pod of this name and uid; a disruption budget may refuse it.

    ``force``: it is deleted instead, which no budget refuses, with so many seconds to end in.
    """

    ref: Ref
    uid: str
    force: int | None = None


@dataclass(frozen=True, slots=True)
class CreateInCloud:
    """Ask the cloud for ``wanted`` (the provider's own description) under ``name``."""

    name: str
    wanted: Any


@dataclass(frozen=True, slots=True)
class DeleteInCloud:
    """Have the cloud delete what it holds under ``name``, or note that it holds nothing.

    ``owner``: the ownership tags that the live object must carry, all of them, or it is not touched.
    ``etag``: the version that is meant; "" means whatever has become of it.
    """

    name: str
    owner: Mapping[str, str]
    etag: str = ""


@dataclass(frozen=True, slots=True)
class LookInCloud:
    """Have the cloud say what it holds under ``name``; nothing is written."""

    name: str


CloudStep = CreateInCloud | DeleteInCloud | LookInCloud
_VERBS = {CreateInCloud: "create", DeleteInCloud: "delete", LookInCloud: "look for"}


@dataclass(frozen=True, slots=True)
class Report:
    """The whole status that we own of one object; written only if it differs."""

    ref: Ref
    uid: str
    status: Manifest


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about an object. ``type`` is Normal or Warning."""

    about: Ref
    uid: str
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects of one kind by their labels and fields, as a live LIST asks for them."""

    api_version: str
    kind: str
    labels: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holding:
    """All that a live LIST may find before anything is bought: what the plan counted, and nothing that it did not."""

    selection: Selection
    uids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass wants written. The empty plan means: all is as wanted."""

    subject: Subject
    finalizer: Finalizer = Finalizer.KEEP
    holding: Holding | None = None
    """What is there already of what is bought. Not asked where the finalizer goes on: then there can be nothing."""
    apply: tuple[Apply, ...] = ()
    patch: tuple[Patch, ...] = ()
    evict: tuple[Evict, ...] = ()
    """Pods that are to leave; asking again is no news, so this alone does not make a plan one that writes."""
    cloud: tuple[CloudStep, ...] = ()
    delete: tuple[Delete, ...] = ()
    release: tuple[Release, ...] = ()
    """Objects other than the parent that bear our finalizer, and may go."""
    report: tuple[Report, ...] = ()
    events: tuple[Event, ...] = ()
    gone_in_cloud: tuple[str, ...] = ()
    """Names that the cloud must answer 404 for, live, before any finalizer is dropped."""
    there_in_cloud: tuple[str, ...] = ()
    """Names that the cloud must show, live and with the machine that they had, before anything is deleted."""
    gone_in_cluster: tuple[Selection, ...] = ()
    """Selections that a live LIST must find empty before the finalizer is dropped."""
    look_again: float | None = None
    """Seconds until the next look if no event comes first; None waits for an event."""

    @property
    def writes(self) -> bool:
        """Whether carrying this out changes anything."""
        return bool(
            self.finalizer != Finalizer.KEEP
            or self.apply
            or self.patch
            or self.cloud
            or self.delete
            or self.release
            or self.report
            or self.events
        )

    def summary(self) -> str:
        """One line for the log: names and verbs, no bodies."""
        parts = [
            *([f"finalizer {self.finalizer}"] if self.finalizer != Finalizer.KEEP else []),
            *(f"apply {Ref.of(a.manifest)}" for a in self.apply),
            *(f"patch {p.ref}" for p in self.patch),
            *(f"evict {e.ref}" for e in self.evict),
            *(f"{_VERBS[type(c)]} {c.name} in cloud" for c in self.cloud),
            *(f"delete {d.ref}" for d in self.delete),
            *(f"release {r.ref}" for r in self.release),
            *(f"status {r.ref}" for r in self.report),
            *(f"event {e.reason}" for e in self.events),
        ]
        return ", ".join(parts) or "nothing to do"
