"""What one Workspace needs next: gates in their order.

Deleted? Mistaken? Carried out at all? Machines there? Nodes ready? Workload as wanted? Model answering? The first gate
that is closed names condition, reason and message; what is wanted up to there is written all the same.
"""

from collections.abc import Sequence
from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.problems import Problem, listed
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.api.spec import Preset, Resource
from kaito_operator.api.validation import problems
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Apply, Delete, Finalizer, Plan
from kaito_operator.workspace import children, diagnosis, inference, machines, nodes, pod_diagnosis, services, status
from kaito_operator.workspace.farewell import farewell
from kaito_operator.workspace.finding import Finding, waits_for, wrong
from kaito_operator.workspace.images import Images
from kaito_operator.workspace.inference import COMPONENT, Serving
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.placement import Placement, placement
from kaito_operator.workspace.seen import Node
from kaito_operator.workspace.status import Standing
from kaito_operator.workspace.support import served_preset
from presets.catalog import Catalog, InstanceType, Model


def plan(seen: Observed, now: datetime, *, catalog: Catalog, images: Images) -> Plan:
    """The next writes; none if all is as wanted."""
    workspace, body = seen.workspace, seen.workspace.body
    if workspace.deleted_at is not None:
        return farewell(seen, deleted_at=workspace.deleted_at, now=now)
    found = problems(workspace, catalog=catalog)
    if found or body is None:
        return _reported(workspace, status.stopped(_mistaken(found)), now=now)
    preset = served_preset(body, catalog=catalog)
    if isinstance(preset, str):
        return _reported(workspace, status.stopped(wrong(Reason.NOT_YET_SUPPORTED, preset)), now=now)
    return _serving(seen, body.resource, preset, now=now, catalog=catalog, images=images)


def _mistaken(found: Sequence[Problem]) -> Finding:
    reasons = {each.reason for each in found}
    return wrong(reasons.pop() if len(reasons) == 1 else Reason.INVALID, listed(found))


def _serving(
    seen: Observed, resource: Resource, preset: Preset, *, now: datetime, catalog: Catalog, images: Images
) -> Plan:
    """Machines, then nodes, then the workload on them, then its answer."""
    workspace, model = seen.workspace, catalog.model(preset.name)
    size = catalog.instance_type(resource.instance_type)
    placed = placement(seen, resource, gpus=0 if size or model.cpu else model.gpus, now=now)
    serving = Serving(preset, model, resource, gpus=_gpus(model, size, placed.nodes))
    machine = diagnosis.machines(placed, resource, now=now)
    ready = diagnosis.nodes(placed, resource, gpus=serving.gpus, now=now)
    standing = Standing(
        machine=machine,
        resource=ready if machine.passed else waits_for(ConditionType.MACHINE_READY),
        inference=_inference(seen, resource, now=now, begun=machine.passed and ready.passed),
        nodes=tuple(node.name for node in placed.nodes),
        wanted_nodes=resource.count,
        endpoint=services.endpoint(seen.service),
    )
    apply = (
        *_bought(seen, placed, resource, size=size, model=model),
        *nodes.reserving(placed.nodes, key=workspace.key),
        *nodes.releasing(placed.released, key=workspace.key),
        *(_workload(seen, serving, images=images) if standing.resource.passed or seen.deployment else ()),
    )
    return _reported(workspace, standing, apply=apply, delete=machines.giving_up(placed.surplus), now=now)


def _gpus(model: Model, size: InstanceType | None, used: Sequence[Node]) -> int:
    """GPUs that each node gives. On nodes of the user's own: what the model needs, or none if it can do without."""
    if size is not None:
        return size.gpus
    on_processors = model.cpu and not (used and all(node.has_gpus for node in used))
    return 0 if on_processors else model.gpus


def _bought(
    seen: Observed, placed: Placement, resource: Resource, *, size: InstanceType | None, model: Model
) -> tuple[Apply, ...]:
    """What is missing is asked for at once. Without a size nothing ever is."""
    if size is None:
        return ()
    return machines.buying(seen.workspace, resource, seen.machines, number=placed.to_buy, size=size, model=model)


def _workload(seen: Observed, serving: Serving, *, images: Images) -> tuple[Apply, ...]:
    """Service and Deployment, where they do not say what is wanted. What belongs to others is left alone."""
    wanted = (
        (services.service(seen.workspace, component=COMPONENT), seen.service),
        (inference.deployment(seen.workspace, serving, images=images), seen.deployment),
    )
    taken = {each["kind"] for each in seen.foreign}
    free = ((manifest, found) for manifest, found in wanted if manifest["kind"] not in taken)
    return tuple(step for manifest, found in free for step in children.applying(manifest, seen=found))


def _inference(seen: Observed, resource: Resource, *, now: datetime, begun: bool) -> Finding:
    """Worked out from the pods as long as there is a Deployment, whatever became of the nodes."""
    if seen.foreign:
        names = " and ".join(f"{each['kind']} {each['metadata']['name']}" for each in seen.foreign)
        told = f"{names} is there already and does not belong to this Workspace"
        return wrong(Reason.NAME_TAKEN, told, cure="rename one of them")
    if seen.deployment is None and not begun:
        return waits_for(ConditionType.RESOURCE_READY)
    pods = [pod for pod in seen.pods if pod.component == COMPONENT]
    return pod_diagnosis.inference(seen.deployment, pods, count=resource.count, now=now)


def _reported(
    workspace: Workspace,
    standing: Standing,
    *,
    now: datetime,
    apply: tuple[Apply, ...] = (),
    delete: tuple[Delete, ...] = (),
) -> Plan:
    """The plan with its status. A Workspace that is not worked on gets no finalizer: there is nothing to tidy up."""
    wanted = status.conditions(standing)
    report = status.report(
        workspace,
        wanted,
        nodes=standing.nodes,
        wanted_nodes=standing.wanted_nodes,
        endpoint=standing.endpoint,
        now=now,
    )
    bare = standing.stopped is None and labels.WORKSPACE_FINALIZER not in workspace.finalizers
    return Plan(
        workspace.subject,
        finalizer=Finalizer.ADD if bare else Finalizer.KEEP,
        apply=apply,
        delete=delete,
        report=report,
        events=status.events(workspace, wanted) if report else (),
        look_again=standing.look_again,
    )
