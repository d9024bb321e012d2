"""How a deleted Workspace goes: its workload, then its machines and reservations, then our finalizer."""

from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.conditions import Condition
from kaito_operator.api.kinds import JOB, Kind
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.plan import Apply, Delete, Finalizer, Plan, Ref, Selection
from kaito_operator.workspace import status
from kaito_operator.workspace.finding import passed, wrong
from kaito_operator.workspace.machines import giving_up
from kaito_operator.workspace.nodes import releasing, reservation
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.seen_pods import Job, Pod

DRAIN_SECONDS = 90.0
"""Running answers may end before their machine goes: the pods' grace, and as long again. It is paid for meanwhile."""
KEPT = (
    ConditionType.MACHINE_READY,
    ConditionType.NODE_CLAIM_READY,
    ConditionType.RESOURCE_READY,
    ConditionType.INFERENCE_READY,
)


def farewell(seen: Observed, *, deleted_at: datetime, now: datetime, bought: Kind) -> Plan:
    """Nothing is applied any more but the release of nodes. The finalizer goes when a live look finds no Machine."""
    workspace = seen.workspace
    if labels.WORKSPACE_FINALIZER not in workspace.finalizers:
        return Plan(workspace.subject)
    workload = seen.serving
    stopping = (
        *(Delete(Ref.of(o), o["metadata"]["uid"]) for o in workload if "deletionTimestamp" not in o["metadata"]),
        *(_job_deletion(seen, job) for job in seen.jobs if not job.deleting),
    )
    ending, left = _ending(seen), DRAIN_SECONDS - (now - deleted_at).total_seconds()
    if ending and left > 0:
        told = f"waits for Pod {', '.join(pod.name for pod in ending)} to end"
        return _waiting(seen, told, now, delete=stopping, look_again=left + 1)
    released = releasing(seen.nodes, key=workspace.key)
    if not (workload or seen.jobs or seen.machines or released):
        machines = Selection(bought.api_version, bought.kind, reservation(workspace.key))
        return Plan(workspace.subject, finalizer=Finalizer.DROP, gone_in_cluster=(machines,))
    names = ", ".join(map(str, seen.machines))
    told = f"waits for {names} to be gone" if names else "waits for the workload to be gone"
    return _waiting(seen, told, now, apply=released, delete=(*stopping, *giving_up(seen.machines)))


def _job_deletion(seen: Observed, job: Job) -> Delete:
    return Delete(Ref(JOB.api_version, JOB.kind, job.name, seen.workspace.key.namespace), job.uid)


def _ending(seen: Observed) -> list[Pod]:
    """Pods that run on living nodes. Those of a dead node never end."""
    alive = {node.name for node in seen.nodes if node.ready}
    return [pod for pod in seen.pods if pod.node_name in alive and pod.phase not in ("Failed", "Succeeded")]


def _waiting(
    seen: Observed,
    told: str,
    now: datetime,
    *,
    delete: tuple[Delete, ...],
    apply: tuple[Apply, ...] = (),
    look_again: float | None = None,
) -> Plan:
    """The plan with the status that says what the deletion waits for; how far the Workspace had come stays readable."""
    workspace = seen.workspace
    kept = [
        Condition(type, c["status"], c.get("reason", ""), c.get("message", ""))
        for type, c in workspace.conditions.items()
        if type in KEPT
    ]
    wanted = (
        *kept,
        wrong(Reason.DELETING, told).condition(ConditionType.WORKSPACE_READY),
        wrong(Reason.DELETING, told).condition(ConditionType.READY),
        passed(Reason.DELETING, told).condition(ConditionType.WORKSPACE_DELETING),
    )
    report = status.report(workspace, wanted, nodes=_nodes(seen), wanted_nodes=0, endpoint="", now=now)
    return Plan(
        workspace.subject,
        apply=apply,
        delete=delete,
        report=report,
        events=status.events(workspace, wanted) if report else (),
        look_again=look_again,
    )


def _nodes(seen: Observed) -> list[str]:
    return [node.name for node in seen.nodes if node.holder == seen.workspace.key]
