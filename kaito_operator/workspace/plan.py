"""What one Workspace needs next: gates in their order.

Deleted? Mistaken? Known to the Hub? Files to be had? Machines there? Nodes ready? Tuned?
Workload as wanted? Model answering? The first gate that is closed names condition, reason and message; what is wanted
up to there is written all the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.problems import Problem, listed
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.api.spec import Resource
from kaito_operator.api.validation import problems
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Apply, Delete, Finalizer, Holding, Manifest, Plan, Selection
from kaito_operator.workspace import (
    diagnosis,
    estimates,
    hub_models,
    job_diagnosis,
    machines,
    nodes,
    pod_diagnosis,
    services,
    status,
    tuning,
)
from kaito_operator.workspace.farewell import farewell
from kaito_operator.workspace.finding import Finding, waiting, waits_for, wrong
from kaito_operator.workspace.inference import COMPONENT
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.placement import Placement, placement
from kaito_operator.workspace.purchase import Purchase
from kaito_operator.workspace.seen_machines import Node
from kaito_operator.workspace.status import Standing
from kaito_operator.workspace.task import Needs, ServedPreset, Task, task
from kaito_operator.workspace.workload import left_running, workload
from presets.catalog import Catalog, InstanceType

BETWEEN_LOOKS_AT_WHAT_GOES = 5.0
BETWEEN_LOOKS_AT_A_TAKEN_NAME = 60.0
"""Nobody watches what belongs to others."""


def plan(seen: Observed, now: datetime, *, catalog: Catalog, installation: Installation) -> Plan:
    """The next writes; none if all is as wanted."""
    workspace, body, bought = seen.workspace, seen.workspace.body, installation.purchase.condition
    catalog = hub_models.extended(catalog, seen.hub)
    if workspace.deleted_at is not None:
        return farewell(seen, deleted_at=workspace.deleted_at, now=now, bought=installation.purchase.kind)
    found = problems(workspace, catalog=catalog, runtime=installation.runtime)
    if found or body is None:
        return _reported(seen, status.stopped(_mistaken(found), bought=bought), now=now)
    if told := hub_models.gate(body, seen.hub, catalog=catalog):
        return _reported(seen, status.stopped(told, bought=bought), now=now)
    asked = task(seen, catalog=catalog, installation=installation)
    if isinstance(asked, Finding):
        return _reported(seen, status.stopped(asked, bought=bought), now=now)
    if body.resource.instance_type and seen.untouched and (taken := _name_taken_at_first(seen, asked)):
        return _reported(seen, status.stopped(taken, bought=bought), now=now)
    return _worked_on(seen, body.resource, asked, now=now, catalog=catalog, installation=installation)


def _mistaken(found: Sequence[Problem]) -> Finding:
    reasons = {each.reason for each in found}
    return wrong(reasons.pop() if len(reasons) == 1 else Reason.INVALID, listed(found))


def _worked_on(
    seen: Observed, resource: Resource, asked: Task, *, now: datetime, catalog: Catalog, installation: Installation
) -> Plan:
    """Machines, then nodes, then the training if there is one, then the model on them, then its answer."""
    workspace, needs, body_resource = seen.workspace, asked.served.needs, resource
    size = catalog.instance_type(resource.instance_type)
    given_up = asked.trains and asked.tuned is not None and job_diagnosis.needs_no_node(asked.tuned.job, now=now)
    if asked.over or given_up:
        resource = resource.model_copy(update={"count": 0})  # the machines are paid for by the hour
    least = 0 if size or needs.cpu else needs.gpus
    lost_after = installation.node_lost_seconds
    placed = placement(seen, resource, gpus=least, kind=installation.purchase.kind, lost_after=lost_after, now=now)
    gpus = _gpus(needs, size, placed.nodes)
    machine = diagnosis.machines(placed, resource, now=now)
    ready = diagnosis.nodes(placed, resource, gpus=gpus, lost_after=lost_after, now=now)
    begun = machine.passed and ready.passed
    work = workload(seen, asked, resource, gpus=gpus, begun=begun, installation=installation)
    job, tuned = _tuning(seen, asked, begun=begun, now=now)
    inference = _inference(seen, asked, resource, runs=left_running(seen, work), now=now, begun=begun)
    standing = Standing(
        machine=machine,
        resource=ready if machine.passed else waits_for(installation.purchase.condition),
        bought=installation.purchase.condition,
        job=job,
        tuned=tuned,
        inference=inference,
        nodes=tuple(node.name for node in placed.nodes),
        attempts=placed.attempts,
        wanted_nodes=resource.count,
        endpoint=_endpoint(seen, inference),
        tuning=status.tuning(asked.tuned, seen.progress, before=workspace.status.get("tuning")),
        estimate=estimates.estimate(asked, body_resource, size, gpus=gpus, catalog=catalog),
    )
    apply = (
        *_bought(seen, placed, resource, size=size, disk_gib=needs.disk_gib, purchase=installation.purchase),
        *nodes.reserving(placed.nodes, key=workspace.key),
        *nodes.protecting(placed.of_claims),
        *nodes.releasing(placed.released, key=workspace.key),
        *work.apply,
    )
    delete = (*work.delete, *machines.giving_up(placed.surplus))
    holding = _holding(seen, installation.purchase) if placed.to_buy else None
    return _reported(seen, standing, holding=holding, apply=apply, delete=delete, now=now)


def _holding(seen: Observed, purchase: Purchase) -> Holding:
    """The machines that this plan knows of: there must be no others when it buys."""
    ours = Selection(purchase.kind.api_version, purchase.kind.kind, nodes.reservation(seen.workspace.key))
    return Holding(ours, frozenset(machine.uid for machine in seen.machines))


def _gpus(needs: Needs, size: InstanceType | None, used: Sequence[Node]) -> int:
    """GPUs that each node gives. On nodes of the user's own: what the model needs, or none if it can do without."""
    if size is not None:
        return size.gpus
    on_processors = needs.cpu and not (used and all(node.has_gpus for node in used))
    return 0 if on_processors else needs.gpus


def _bought(
    seen: Observed,
    placed: Placement,
    resource: Resource,
    *,
    size: InstanceType | None,
    disk_gib: int,
    purchase: Purchase,
) -> tuple[Apply, ...]:
    """What is missing is asked for at once. Without a size nothing ever is."""
    if size is None:
        return ()
    return machines.buying(
        seen.workspace,
        resource,
        placed.to_buy,
        size=size,
        disk_gib=disk_gib,
        purchase=purchase,
    )


def _tuning(seen: Observed, asked: Task, *, begun: bool, now: datetime) -> tuple[Finding, Finding] | tuple[None, None]:
    """JobStarted and TuningSucceeded, of a Workspace that tunes."""
    tuned = asked.tuned
    if tuned is None:
        return None, None
    done = tuned.result is not None
    taken = None if done else _name_taken(seen, _claim(seen.workspace), meanwhile=Reason.JOB_PENDING)
    before = seen.workspace.conditions.get(ConditionType.JOB_STARTED.value, {})
    job = taken or job_diagnosis.started(
        tuned.job,
        tuned.pods,
        name=tuned.job_name,
        ending=tuned.ending,
        done=done,
        begun=begun,
        before=before,
        now=now,
    )
    made = job_diagnosis.succeeded(tuned.job, tuned.pods, tuned.result, started=job, progress=seen.progress)
    return job, made


def _inference(
    seen: Observed, asked: Task, resource: Resource, *, runs: Manifest | None, now: datetime, begun: bool
) -> Finding | None:
    """Worked out from the pods as long as there is a Deployment, whatever became of the nodes."""
    if not asked.serves:
        return None
    if asked.trains:
        return waits_for(ConditionType.TUNING_SUCCEEDED)
    if taken := _name_taken(seen, *_names(seen.workspace, asked), meanwhile=Reason.INFERENCE_PENDING):
        return taken
    if seen.refused is not None:
        told = f"the API server refuses the {seen.refused.manifest['kind']}: {seen.refused.message}"
        return wrong(Reason.WORKLOAD_REFUSED, told, cure="mend inference.template, or the policy that refuses it")
    if runs is None and not begun:
        return waits_for(ConditionType.RESOURCE_READY)
    pods = [pod for pod in seen.pods if pod.component == COMPONENT]
    return pod_diagnosis.inference(runs, pods, count=resource.count, now=now)


def _endpoint(seen: Observed, inference: Finding | None) -> str:
    """Where the model answers. It is told from the first answer on: before that it would be an address where nobody is,
    and a write of its own."""
    answered = bool(seen.workspace.status.get("endpoint")) or (inference is not None and inference.passed)
    return services.endpoint(seen.service) if answered else ""


def _names(workspace: Workspace, asked: Task) -> list[tuple[str, str]]:
    """Kind and name of what serves."""
    name = workspace.key.name
    if isinstance(asked.served, ServedPreset) and asked.served.spreads:
        return [("Service", name), ("Service", services.headless_name(workspace)), ("StatefulSet", name)]
    return [("Service", name), ("Deployment", name)]


def _claim(workspace: Workspace) -> tuple[str, str]:
    return "PersistentVolumeClaim", tuning.claim_name(workspace)


def _name_taken_at_first(seen: Observed, asked: Task) -> Finding | None:
    """A name that is somebody else's, told before anything is bought: a machine would wait for it, and cost."""
    serving = _names(seen.workspace, asked) if asked.serves else []
    wanted = [_claim(seen.workspace), *serving] if asked.tuned is not None else serving
    found = _name_taken(seen, *wanted, meanwhile=Reason.WORKSPACE_PENDING)
    taken = found is not None and found.reason == Reason.NAME_TAKEN
    return replace(found, look_again=BETWEEN_LOOKS_AT_A_TAKEN_NAME) if taken and found else None


def _name_taken(seen: Observed, *wanted: tuple[str, str], meanwhile: Reason) -> Finding | None:
    """``meanwhile``: the reason while it is only what an earlier Workspace of the name has left, and goes."""
    found = [each for each in seen.foreign if (each["kind"], each["metadata"]["name"]) in wanted]
    if not found:
        return None
    names = " and ".join(f"{each['kind']} {each['metadata']['name']}" for each in found)
    if all("deletionTimestamp" in each["metadata"] for each in found):
        told = f"{names} of the same name is being deleted, and has to be gone first"
        return waiting(meanwhile, told, look_again=BETWEEN_LOOKS_AT_WHAT_GOES)
    told = f"{names} is there already and does not belong to this Workspace"
    return wrong(Reason.NAME_TAKEN, told, cure="rename one of them")


def _reported(
    seen: Observed,
    standing: Standing,
    *,
    now: datetime,
    holding: Holding | None = None,
    apply: tuple[Apply, ...] = (),
    delete: tuple[Delete, ...] = (),
) -> Plan:
    """The plan with its status. A Workspace that is not worked on gets no finalizer: there is nothing to tidy up."""
    workspace = seen.workspace
    wanted = status.conditions(standing)
    report = status.report(
        workspace,
        wanted,
        nodes=standing.nodes,
        wanted_nodes=standing.wanted_nodes,
        endpoint=standing.endpoint,
        attempts=standing.attempts,
        tuning=standing.tuning,
        estimate=standing.estimate,
        model=hub_models.told(seen.hub),
        now=now,
    )
    bare = standing.stopped is None and labels.WORKSPACE_FINALIZER not in workspace.finalizers
    return Plan(
        workspace.subject,
        finalizer=Finalizer.ADD if bare else Finalizer.KEEP,
        holding=holding,
        apply=apply,
        delete=delete,
        report=report,
        events=status.events(workspace, wanted) if report else (),
        look_again=standing.look_again,
    )
