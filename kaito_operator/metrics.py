"""Prometheus metrics under controller-runtime's names, so that known dashboards and alerts read them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one controller, in a registry of its own."""

    def __init__(self, controller: str, *, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._controller = controller
        self._passes = self._counter(
            "controller_runtime_reconcile", "Passes by outcome.", ("controller", "result"), unit="_total"
        )
        self._errors = self._counter("controller_runtime_reconcile_errors", "Passes that failed.", ("controller",))
        self._seconds = self._histogram(
            "controller_runtime_reconcile_time_seconds", "Seconds a pass took.", ("controller",)
        )
        self._active = self._gauge("controller_runtime_active_workers", "Passes under way.", ("controller",))
        self._adds = self._counter("workqueue_adds", "Keys asked for.", ("name",))
        self._depth = self._gauge("workqueue_depth", "Keys that wait.", ("name",))
        self._retries = self._counter("workqueue_retries", "Keys that failed and are tried again.", ("name",))
        self._waited = self._histogram("workqueue_queue_duration_seconds", "Seconds a key waited.", ("name",))
        self._worked = self._histogram("workqueue_work_duration_seconds", "Seconds a key was worked on.", ("name",))
        self._requests = self._counter(
            "rest_client_requests", "Requests to the API server.", ("method", "resource", "code")
        )
        self._leading = self._gauge("leader_election_master_status", "1 on the leader.", ("name",))
        self._tasks = Gauge("python_asyncio_tasks", "Tasks of the event loop.", registry=self.registry)
        self._tasks.set_function(_tasks)
        self.leading(False)

    def _counter(self, name: str, says: str, labels: tuple[str, ...], *, unit: str = "") -> Counter:
        return Counter(f"{name}{unit}", says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(name, says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, says, labels, registry=self.registry, buckets=SECONDS)

    @contextmanager
    def reconcile(self) -> Iterator[Callable[[str], None]]:
        """Times one pass; the pass names its outcome: success, requeue, requeue_after or error."""
        results = ["error"]
        started = time.monotonic()
        active = self._active.labels(self._controller)
        active.inc()
        try:
            yield results.append
            if results == ["error"]:
                results.append("success")
        finally:
            active.dec()
            self._seconds.labels(self._controller).observe(time.monotonic() - started)
            self._passes.labels(self._controller, results[-1]).inc()
            if results[-1] == "error":
                self._errors.labels(self._controller).inc()

    def requested(self, method: str, resource: str, code: int) -> None:
        """Counts one request to the API server; code 0 is no answer."""
        self._requests.labels(method, resource, str(code)).inc()

    def leading(self, leads: bool) -> None:
        """Whether this process holds the Lease."""
        self._leading.labels(self._controller).set(int(leads))

    def added(self) -> None:
        """A key was asked for."""
        self._adds.labels(self._controller).inc()

    def depth(self, keys: int) -> None:
        """So many keys wait."""
        self._depth.labels(self._controller).set(keys)

    def retried(self) -> None:
        """A key failed and will be tried again."""
        self._retries.labels(self._controller).inc()

    def waited(self, seconds: float) -> None:
        """How long a key waited for its turn."""
        self._waited.labels(self._controller).observe(seconds)

    def worked(self, seconds: float) -> None:
        """How long a key was worked on."""
        self._worked.labels(self._controller).observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


def _tasks() -> float:
    """As many as whoever asks for the metrics has beside it; none where there is no event loop."""
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:
        return 0.0
