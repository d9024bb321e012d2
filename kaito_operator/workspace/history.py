"""What a Workspace asked for before, as ControllerRevisions: ten at most, so that an edit can be undone.

Nothing is written for a Workspace that was never edited. What is carried out bears its own specification; where that is
no longer what is asked for, both are kept when that is rolled out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import ValidationError

from kaito_operator.api.fields import ApiModel
from kaito_operator.api.kinds import CONTROLLER_REVISION
from kaito_operator.api.spec import Inference, Tuning
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Apply, Delete, Manifest, Ref
from kaito_operator.workspace import children

SPEC = "kaito.sh/spec"
"""Annotation on what runs, or on the configuration of a training: the specification it was made for."""
KEPT = 10
LARGEST = 64 << 10
"""Bytes of a specification that is kept; all annotations of an object may have 256 KiB together."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One that is there."""

    name: str
    uid: str
    number: int


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is written so that nothing is forgotten."""

    apply: tuple[Apply, ...] = ()
    delete: tuple[Delete, ...] = ()


def of_manifest(manifest: Manifest) -> Revision:
    """Reads a ControllerRevision."""
    meta = manifest["metadata"]
    return Revision(meta["name"], meta["uid"], int(manifest.get("revision", 0)))


def annotations(workspace: Workspace) -> dict[str, dict[str, str]]:
    """What to add to the metadata of what carries the specification out."""
    text = _text(_specification(workspace))
    return {"annotations": {SPEC: text}} if len(text.encode()) <= LARGEST else {}


def keeping(
    workspace: Workspace, carried_out: Manifest | None, revisions: tuple[Revision, ...], *, component: str
) -> Keeping:
    """``carried_out``: what bears the specification that was carried out last; None where somebody took that away."""
    now = _specification(workspace)
    before = _before(carried_out) if carried_out is not None else now
    if before is None or (before == now and not revisions):
        return Keeping()
    numbers = {each.name: each.number for each in revisions}
    last = max(numbers.values(), default=0)
    wanted: list[Manifest] = []
    if before != now and (name := _name(workspace, before)) not in numbers:
        last += 1
        wanted.append(_revision(workspace, before, name=name, number=last, component=component))
    if (name := _name(workspace, now)) not in numbers or numbers[name] < last:
        wanted.append(_revision(workspace, now, name=name, number=last + 1, component=component))
    known = {each.name: each for each in revisions}
    uids = {name: each.uid for name, each in known.items()}
    apply = tuple(Apply(each, uid=uids.get(each["metadata"]["name"])) for each in wanted)
    numbers |= {each["metadata"]["name"]: each["revision"] for each in wanted}
    too_old = sorted(numbers, key=lambda name: numbers[name])[:-KEPT]
    return Keeping(apply, tuple(_deletion(workspace, known[name]) for name in too_old if name in known))


def _deletion(workspace: Workspace, revision: Revision) -> Delete:
    kind = CONTROLLER_REVISION
    return Delete(Ref(kind.api_version, kind.kind, revision.name, workspace.key.namespace), revision.uid)


def _revision(
    workspace: Workspace, data: Mapping[str, Any], *, name: str, number: int, component: str
) -> dict[str, Any]:
    return {
        "apiVersion": CONTROLLER_REVISION.api_version,
        "kind": CONTROLLER_REVISION.kind,
        "metadata": children.metadata(workspace, component=component, name=name),
        "data": data,
        "revision": number,
    }


def _name(workspace: Workspace, specification: Mapping[str, Any]) -> str:
    """A function of what is asked for, so that what was asked for before has its revision already."""
    digest = sha256(f"{workspace.uid} {_text(specification)}".encode()).hexdigest()[:10]
    return f"{workspace.key.name[:52].rstrip('-')}-{digest}"


class _Part(ApiModel):
    """What of a Workspace can be edited."""

    inference: Inference | None = None
    tuning: Tuning | None = None

    def specification(self) -> dict[str, Any]:
        """A merge patch that says it again; null takes away what was added since."""
        parts = {"inference": self.inference, "tuning": self.tuning}
        return {name: part.model_dump(mode="json", by_alias=True) for name, part in parts.items() if part is not None}


def _specification(workspace: Workspace) -> dict[str, Any]:
    body = workspace.body
    return _Part(inference=body.inference, tuning=body.tuning).specification() if body is not None else {}


def _before(carried_out: Manifest) -> dict[str, Any] | None:
    """Of an object that is there, in today's form; None where it says nothing that makes sense."""
    noted = carried_out["metadata"].get("annotations") or {}
    try:
        return _Part.model_validate_json(noted.get(SPEC, "")).specification() or None
    except ValidationError:
        return None


def _text(specification: Mapping[str, Any]) -> str:
    return json.dumps(specification, sort_keys=True, separators=(",", ":"))
