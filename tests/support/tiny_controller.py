"""The smallest controller that uses all of the skeleton: a Workspace gets a ConfigMap, a condition and an event."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import Condition, merged
from kaito_operator.api.kinds import CONFIG_MAP, WORKSPACE
from kaito_operator.carry_out import CloudDoor
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Apply, Delete, Event, Finalizer, Key, Manifest, Plan, Ref, Report, Selection, Subject
from kaito_operator.reconciler import Controller, Watch

POISON = "poison"
"""A Workspace of this name brings a bug of the plan to light."""


@dataclass(frozen=True)
class Seen:
    """A Workspace and its ConfigMap."""

    key: Key
    subject: Subject
    has_finalizer: bool
    status: Manifest
    copy: Manifest | None


def observe(mirror: Mirror, key: Key) -> Seen | None:
    manifest = mirror.get(WORKSPACE, key.name, key.namespace)
    if manifest is None:
        return None
    meta = manifest["metadata"]
    return Seen(
        key,
        Subject(Ref.of(manifest), meta["uid"], meta["generation"], deleting="deletionTimestamp" in meta),
        labels.WORKSPACE_FINALIZER in meta.get("finalizers", ()),
        manifest.get("status") or {},
        next(iter(mirror.of_workspace(CONFIG_MAP, key)), None),
    )


def owned_labels(key: Key) -> dict[str, str]:
    return {labels.WORKSPACE: key.name, labels.WORKSPACE_NAMESPACE: key.namespace}


def wanted_copy(seen: Seen) -> dict[str, Any]:
    meta = {"name": seen.key.name, "namespace": seen.key.namespace, "labels": owned_labels(seen.key)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"of": seen.subject.uid}}


def plan(seen: Seen, now: datetime) -> Plan:
    if seen.key.name == POISON:
        raise ZeroDivisionError("a bug that one object brings to light")
    if seen.subject.deleting:
        return deleting(seen)
    wanted, found = wanted_copy(seen), seen.copy
    same = found is not None and found.get("data") == wanted["data"]
    ready = Condition("Ready", "True" if same else "False", "Copied" if same else "Copying")
    conditions = merged(seen.status.get("conditions", ()), [ready], generation=seen.subject.generation, now=now)
    status = {"conditions": conditions}
    changed = status != seen.status
    ref, uid = seen.subject.ref, seen.subject.uid
    return Plan(
        seen.subject,
        finalizer=Finalizer.KEEP if seen.has_finalizer else Finalizer.ADD,
        apply=() if same else (Apply(wanted, uid=found["metadata"]["uid"] if found else None, buys=True),),
        report=(Report(ref, uid, status),) if changed else (),
        events=(Event(ref, uid, "Normal", ready.reason, "as the condition says"),) if changed else (),
    )


def deleting(seen: Seen) -> Plan:
    if not seen.has_finalizer:
        return Plan(seen.subject)
    if seen.copy is not None:
        return Plan(seen.subject, delete=(Delete(Ref.of(seen.copy), seen.copy["metadata"]["uid"], gives_up=True),))
    left = Selection("v1", "ConfigMap", owned_labels(seen.key))
    return Plan(seen.subject, finalizer=Finalizer.DROP, gone_in_cluster=(left,))


def concerns(manifest: Manifest, mirror: Mirror) -> Iterable[Key]:
    meta = manifest["metadata"]
    if manifest["kind"] == WORKSPACE.kind:
        return (Key(meta["namespace"], meta["name"]),)
    owner = (meta.get("labels") or {}).get(labels.WORKSPACE)
    return (Key(meta["namespace"], owner),) if owner else ()


def tiny_controller(cloud: CloudDoor | None = None) -> Controller[Seen]:
    return Controller(
        name="tiny",
        field_manager=labels.WORKSPACE_MANAGER,
        parent=WORKSPACE,
        watches=(Watch(WORKSPACE), Watch(CONFIG_MAP, {labels.WORKSPACE: None})),
        concerns=concerns,
        observe=observe,
        plan=plan,
        cloud=cloud,
    )


def a_workspace(name: str, namespace: str) -> dict[str, Any]:
    """A Workspace that the CRD takes."""
    return {
        "apiVersion": WORKSPACE.api_version,
        "kind": WORKSPACE.kind,
        "metadata": {"name": name, "namespace": namespace},
        "resource": {"instanceType": "Standard_D2s_v5", "labelSelector": {"matchLabels": {"app": name}}},
        "inference": {"preset": {"name": "smollm2-135m-instruct"}},
    }


def workspaces(namespace: str) -> str:
    """The path of the Workspaces of a namespace."""
    return f"/apis/{WORKSPACE.api_version}/namespaces/{namespace}/{WORKSPACE.plural}"
