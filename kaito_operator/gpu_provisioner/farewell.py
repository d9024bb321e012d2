"""What a Machine that is being deleted needs next: its pool goes, then its nodes, and then its finalizer."""

from datetime import datetime

from kaito_operator.gpu_provisioner.agent_pool import owner_tags
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.status import leaving, report
from kaito_operator.plan import Delete, DeleteInCloud, Finalizer, Plan, Ref

FOLLOWED_SECONDS = 30.0
"""What is asked of the cloud anyway is looked at when it changes; this is for an answer that never comes."""


def farewell(seen: Observed, now: datetime, *, cluster: str, gone_seconds: float) -> Plan:
    """The pool goes by name, also when it was never seen, nor a node of it; AKS drains the node on its way.

    The finalizer is dropped when the cloud has answered 404, and does so again ``gone_seconds`` later.
    """
    if not seen.has_finalizer:
        return Plan(seen.subject)
    name, known = seen.subject.ref.name, seen.pool
    refused = known.delete_refused
    if refused is not None and now < refused.until:
        return _told(seen, now, refused.refusal.message, look_again=(refused.until - now).total_seconds())
    if known.pool is not None and known.pool.state == "Deleting":
        return _told(seen, now, "agent pool Deleting", look_again=FOLLOWED_SECONDS)
    if known.absent_since is None:
        step = DeleteInCloud(name, owner_tags(seen.machine, cluster=cluster))
        return _told(seen, now, "deleting the agent pool", cloud=(step,))
    left = gone_seconds - (now - known.absent_since).total_seconds()
    nodes = tuple(Delete(Ref.of(node), node["metadata"]["uid"]) for node in seen.nodes)
    if left > 0 or nodes:
        return Plan(seen.subject, delete=nodes, look_again=max(left, 0.0) + 0.1)
    return Plan(seen.subject, finalizer=Finalizer.DROP, gone_in_cloud=(name,))


def _told(
    seen: Observed,
    now: datetime,
    message: str,
    *,
    cloud: tuple[DeleteInCloud, ...] = (),
    look_again: float | None = None,
) -> Plan:
    conditions = leaving(seen, message)
    return Plan(seen.subject, cloud=cloud, report=report(seen, conditions, now=now), look_again=look_again)
