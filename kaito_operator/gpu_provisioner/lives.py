"""What is counted of the lives of Machines and their nodes, under Karpenter's names."""

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram

from kaito_operator.api.conditions import by_type, is_true, moment
from kaito_operator.gpu_provisioner.measured import TERMINATION_SECONDS
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.status import READY, step_types
from kaito_operator.plan import DeleteInCloud, Finalizer, Plan

DAY = 86400.0
LIFETIME_SECONDS = (600.0, 3600.0, 6 * 3600.0, DAY, 3 * DAY, 7 * DAY, 30 * DAY, 90 * DAY)
REASONS = {
    "LaunchTimeout": "launch_timeout",
    "RegistrationTimeout": "registration_timeout",
    "NodeRepair": "unhealthy",
    "SpotEvicted": "spot_evicted",
    "PoolDeleted": "garbage_collected",
}
"""Why a pool is replaced, in Karpenter's words where it has one; every other refusal is ``launch_failed``."""


class Lives:
    """The metrics; told of every plan that was carried out."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"karpenter_{name}", says, labels, registry=registry)

        def histogram(name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"karpenter_{name}", says, registry=registry, buckets=buckets)

        self._created = counter("nodeclaims_created_total", "Machines that were taken on.")
        self._terminated = counter("nodeclaims_terminated_total", "Machines that were let go.")
        self._disrupted = counter("nodeclaims_disrupted_total", "Pools that were given up for another.", "reason")
        self._unhealthy = counter(
            "nodeclaims_unhealthy_disrupted_total", "Those whose node had long been not Ready.", "condition"
        )
        self._termination = histogram(
            "nodeclaims_termination_duration_seconds",
            "Seconds from a Machine's deletion to its end.",
            TERMINATION_SECONDS,
        )
        self._nodes_created = counter("nodes_created_total", "Nodes that joined and became a Machine's.")
        self._nodes_terminated = counter("nodes_terminated_total", "Nodes that went with their Machine.")
        self._drained = counter("nodes_drained_total", "Nodes that were empty when their pool was deleted.")
        self._lifetime = histogram(
            "nodes_lifetime_duration_seconds", "Seconds that a drained node had lived.", LIFETIME_SECONDS
        )
        self._evictions = counter("nodes_eviction_requests_total", "Pods that were asked to leave a node.", "code")

    def done(self, seen: Observed, todo: Plan, now: datetime) -> None:
        """A plan was carried out whole."""
        if todo.finalizer is Finalizer.ADD:
            self._created.inc()
        if todo.finalizer is Finalizer.DROP:
            self._ended(seen, now)
        self._told(seen, todo)
        first_try = any(isinstance(step, DeleteInCloud) for step in todo.cloud) and seen.pool.delete_refused is None
        if first_try and seen.subject.deleting:
            for node in seen.nodes:
                self._drained.inc()
                self._lifetime.observe((now - moment(node["metadata"]["creationTimestamp"])).total_seconds())

    def requested(self, method: str, resource: str, code: int) -> None:
        """A request was made to the API server; 0 is no answer."""
        if (method, resource) == ("POST", "pods/eviction"):
            self._evictions.labels(str(code)).inc()

    def _ended(self, seen: Observed, now: datetime) -> None:
        self._terminated.inc()
        self._termination.observe((now - moment(seen.machine["metadata"]["deletionTimestamp"])).total_seconds())
        if (seen.machine.get("status") or {}).get("nodeName"):
            self._nodes_terminated.inc()

    def _told(self, seen: Observed, todo: Plan) -> None:
        """What a status says for the first time."""
        registered = step_types(seen.subject.ref.kind)[1]
        for report in todo.report:
            conditions = by_type(report.status["conditions"])
            if is_true(conditions, registered) and not is_true(seen.conditions, registered):
                self._nodes_created.inc()
            reason = conditions[READY].get("reason", "")
            gives_up = any(isinstance(step, DeleteInCloud) for step in todo.cloud) or reason == "PoolDeleted"
            if gives_up and not seen.subject.deleting and seen.conditions.get(READY, {}).get("reason") != reason:
                self._disrupted.labels(REASONS.get(reason, "launch_failed")).inc()
                if reason == "NodeRepair":
                    self._unhealthy.labels(READY).inc()
