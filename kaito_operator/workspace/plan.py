"""What one Workspace needs next: an ordered list of gates. The first that is not passed names condition and cause."""

import dataclasses
from datetime import datetime, timedelta

from kaito_operator.api import labels
from kaito_operator.api.conditions import Condition
from kaito_operator.api.kinds import MACHINE
from kaito_operator.api.validation import problems
from kaito_operator.api.workspace import Preset, Resource, Workspace
from kaito_operator.plan import Apply, Delete, Finalizer, Manifest, Plan, Ref, Selection
from kaito_operator.workspace import diagnosis, inference, machines, nodes, services, status
from kaito_operator.workspace.diagnosis import Cause
from kaito_operator.workspace.drift import holds
from kaito_operator.workspace.images import Images
from kaito_operator.workspace.observe import NodeSeen, Observed, owned_by
from kaito_operator.workspace.status import Told
from presets.catalog import Catalog


def plan(seen: Observed, now: datetime, *, catalog: Catalog, images: Images) -> Plan:
    """The next writes for one Workspace; empty when all is as wanted."""
    if seen.subject.deleting:
        return _deleting(seen, now)
    if isinstance(seen.spec, tuple):
        return _stopped(seen, Cause("Invalid", "; ".join(map(str, seen.spec))), now)
    if found := problems(seen.spec, name=seen.key.name, catalog=catalog):
        return _stopped(seen, Cause(found[0].reason, "; ".join(map(str, found))), now)
    wanted = _preset(seen.spec)
    if isinstance(wanted, Cause):
        return _stopped(seen, wanted, now)
    return _serving(seen, *wanted, now, catalog=catalog, images=images)


def _preset(workspace: Workspace) -> tuple[Resource, Preset] | Cause:
    """The part of the API that is carried out; the rest is accepted and says so."""
    if workspace.tuning is not None:
        return Cause("NotYetSupported", "tuning is not carried out by this version yet")
    if workspace.inference is None or workspace.inference.preset is None or workspace.resource is None:
        return Cause("NotYetSupported", "inference.template is not carried out by this version yet")
    if workspace.inference.adapters:
        return Cause("NotYetSupported", "inference.adapters are not carried out by this version yet")
    return workspace.resource, workspace.inference.preset


def _serving(
    seen: Observed, resource: Resource, preset: Preset, now: datetime, *, catalog: Catalog, images: Images
) -> Plan:
    model, size = catalog.model(preset.name), catalog.instance_type(resource.instanceType)
    used = nodes.chosen(resource, seen)
    buying = machines.missing(resource, seen, nodes=used, size=size, model=model)
    gpus = (size.gpus if size else model.gpus) if not _on_processors(size, used) else 0
    names = tuple(node.name for node in used)
    told = Told(0, nodes=names, wanted_nodes=resource.count)
    apply = (*buying, *nodes.reservations(used, key=seen.key))
    if len(used) < resource.count:
        return _plan(
            seen, dataclasses.replace(told, cause=_too_few(seen, resource, used, len(buying))), now, apply=apply
        )
    if gpus and any(node.gpus == 0 for node in used):
        return _plan(seen, dataclasses.replace(told, passed=1, cause=diagnosis.gpus(used)), now, apply=apply)
    wanted = (
        inference.deployment(seen, resource=resource, preset=preset, model=model, gpus=gpus, images=images),
        services.service(seen),
    )
    if taken := _name_taken(seen):
        return _plan(seen, dataclasses.replace(told, passed=2, cause=taken), now, apply=apply)
    apply += _differing(seen, wanted)
    told = dataclasses.replace(told, passed=2, endpoint=services.endpoint(seen))
    if not _available(seen.deployment):
        return _plan(seen, dataclasses.replace(told, cause=diagnosis.pods(seen.pods)), now, apply=apply)
    return _plan(seen, dataclasses.replace(told, passed=3), now, apply=apply)


def _on_processors(size: object, used: list[NodeSeen]) -> bool:
    """Whether the model runs without a GPU: on a size that has none, or on own nodes that advertise none."""
    has_gpus = getattr(size, "gpus", None)
    return has_gpus == 0 if has_gpus is not None else bool(used) and all(node.gpus == 0 for node in used)


def _too_few(seen: Observed, resource: Resource, used: list[NodeSeen], missing: int) -> Cause:
    if resource.instanceType:
        return diagnosis.machines(seen.machines, missing=missing)
    selector = resource.labelSelector
    wanted = [*(f"{k}={v}" for k, v in selector.matchLabels.items()), *(r.key for r in selector.matchExpressions)]
    return diagnosis.own_nodes(have=len(used), want=resource.count, selector=", ".join(wanted) or "any label")


def _name_taken(seen: Observed) -> Cause | None:
    """An object of our name that is not ours is never touched."""
    for found in (seen.deployment, seen.service):
        if found is not None and not owned_by(found, seen.subject.uid):
            told = (
                f"there is a {found['kind']} {seen.key.name} that does not belong to this Workspace; rename one of them"
            )
            return Cause("NameTaken", told)
    return None


def _differing(seen: Observed, wanted: tuple[Manifest, ...]) -> tuple[Apply, ...]:
    """Applies for what is not there, and for what no longer says what we want it to say."""
    found = {"Deployment": seen.deployment, "Service": seen.service}
    out = []
    for manifest in wanted:
        present = found[manifest["kind"]]
        if present is None:
            out.append(Apply(manifest))
        elif not holds(present, manifest):
            out.append(Apply(manifest, uid=present["metadata"]["uid"]))
    return tuple(out)


def _available(deployment: Manifest | None) -> bool:
    """All replicas of the wanted generation are up; never a latch."""
    if deployment is None:
        return False
    found, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    return bool(
        found.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and found.get("updatedReplicas", 0) == wanted
        and found.get("readyReplicas", 0) == wanted
        and found.get("replicas", 0) == wanted
    )


def _stopped(seen: Observed, cause: Cause, now: datetime) -> Plan:
    """Nothing is bought and nothing is taken away until the spec is mended."""
    return _plan(seen, Told(0, cause=cause), now, apply=(), finalizer=Finalizer.KEEP)


def _plan(
    seen: Observed, told: Told, now: datetime, *, apply: tuple[Apply, ...], finalizer: Finalizer | None = None
) -> Plan:
    if finalizer is None:
        finalizer = Finalizer.KEEP if seen.has_finalizer else Finalizer.ADD
    report = status.report(seen, told, now=now)
    return Plan(
        seen.subject,
        finalizer=finalizer,
        apply=apply,
        report=report,
        events=status.events(seen, told) if report else (),
    )


DRAIN = timedelta(seconds=90)
"""How long pods may take to end before their machines are taken away from under them: their grace and as much again."""


def _deleting(seen: Observed, now: datetime) -> Plan:
    """First the workload ends in peace, then the Machines go, and our finalizer leaves when nothing is left."""
    release = nodes.releases(seen.nodes, key=seen.key)
    if not seen.has_finalizer:
        return Plan(seen.subject, apply=release)
    ours = [o for o in (seen.deployment, seen.service) if o is not None and owned_by(o, seen.subject.uid)]
    ending = _ending(seen, now)
    if ours or ending:
        workload = tuple(_delete(o) for o in ours if "deletionTimestamp" not in o["metadata"])
        left = [f"{o['kind']} {seen.key.name}" for o in ours] + [f"pod {pod['metadata']['name']}" for pod in ending]
        return _waiting_for(seen, left, now, apply=(), delete=workload, look_again=5.0)
    if seen.machines or release:
        machines = tuple(
            Delete(Ref(MACHINE.api_version, MACHINE.kind, machine.name), machine.uid, gives_up=True)
            for machine in seen.machines
            if not machine.deleting
        )
        left = [f"Machine {machine.name}" for machine in seen.machines]
        return _waiting_for(seen, left, now, apply=release, delete=machines)
    owned = {labels.WORKSPACE: seen.key.name, labels.WORKSPACE_NAMESPACE: seen.key.namespace}
    selection = Selection(MACHINE.api_version, MACHINE.kind, owned)
    return Plan(seen.subject, finalizer=Finalizer.DROP, gone_in_cluster=(selection,))


def _ending(seen: Observed, now: datetime) -> list[Manifest]:
    """Pods that still end on living nodes; those of a dead node would end never, and nobody waits for ever."""
    alive = {node.name for node in seen.nodes if node.ready}
    if seen.deleted_at is not None and now - seen.deleted_at > DRAIN:
        return []
    return [pod for pod in seen.pods if pod["spec"].get("nodeName") in alive]


def _waiting_for(
    seen: Observed,
    left: list[str],
    now: datetime,
    *,
    apply: tuple[Apply, ...],
    delete: tuple[Delete, ...],
    look_again: float | None = None,
) -> Plan:
    """A step of the deletion, with what it waits for."""
    waiting = f"waiting for {', '.join(left)} to go"
    deleting = Condition("WorkspaceDeleting", "True", "workspaceDeleted", waiting)
    told = Told(0, cause=Cause("workspaceDeleted", f"deleting; {waiting}"), extra=(deleting,))
    report = status.report(seen, told, now=now)
    return Plan(seen.subject, apply=apply, delete=delete, report=report, look_again=look_again)


def _delete(manifest: Manifest) -> Delete:
    return Delete(Ref.of(manifest), manifest["metadata"]["uid"])
