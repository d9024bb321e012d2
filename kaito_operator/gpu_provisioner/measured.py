"""A cloud whose calls are counted and timed, under the names that Karpenter and its provider for Azure use."""

import builtins
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from kaito_operator.gpu_provisioner.cloud import AgentPool, Cloud, CloudError
from kaito_operator.gpu_provisioner.errors import Refusal

CONTROLLER, PROVIDER = "gpu-provisioner", "azure"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TERMINATION_SECONDS = tuple(float(2**power) for power in range(11))
"""1 to 1024, as Karpenter has them."""


class CloudMetrics:
    """The metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        call = ("controller", "method", "provider")
        self.seconds = Histogram(
            "karpenter_cloudprovider_duration_seconds",
            "Seconds that a call to the cloud took.",
            call,
            registry=registry,
            buckets=SECONDS,
        )
        self.errors = Counter(
            "karpenter_cloudprovider_errors_total", "Calls that failed.", (*call, "error"), registry=registry
        )
        self.creates = Counter(
            "karpenter_cloudprovider_instance_vm_create_start_total", "Pools that were asked for.", registry=registry
        )
        self.failures = Counter(
            "karpenter_cloudprovider_instance_vm_create_failure_total",
            "Pools that were refused (sync) or came to nothing (async).",
            ("phase", "error_code"),
            registry=registry,
        )
        self.terminations = Histogram(
            "karpenter_nodeclaims_instance_termination_duration_seconds",
            "Seconds from the deletion of a pool to its absence.",
            registry=registry,
            buckets=TERMINATION_SECONDS,
        )


class Measured:
    """The same cloud."""

    def __init__(self, cloud: Cloud, metrics: CloudMetrics) -> None:
        self._cloud, self._metrics = cloud, metrics
        self._deleted: dict[str, float] = {}
        """When the deletion of a pool was first granted."""
        self._failed: set[tuple[str, str]] = set()
        """Failures that were counted, by name and etag."""

    async def identify(self) -> None:
        """No call to Resource Manager."""
        await self._cloud.identify()

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        """Counted as asked for before it is answered."""
        self._metrics.creates.inc()
        try:
            with self._timed("Create"):
                return await self._cloud.create(name, wanted)
        except CloudError as error:
            self._metrics.failures.labels("sync", error.refusal.reason).inc()
            raise

    async def delete(self, name: str, *, etag: str) -> None:
        """The clock runs until the pool is seen to be gone."""
        with self._timed("Delete"):
            await self._cloud.delete(name, etag=etag)
        self._deleted.setdefault(name, time.monotonic())

    async def abort(self, name: str) -> None:
        """As it is."""
        with self._timed("Abort"):
            await self._cloud.abort(name)

    async def get(self, name: str) -> AgentPool | None:
        """Tells of failures and of the end, too."""
        with self._timed("Get"):
            found = await self._cloud.get(name)
        if found is not None:
            self._see(found)
        elif name in self._deleted:
            self._metrics.terminations.observe(time.monotonic() - self._deleted.pop(name))
        return found

    async def list(self) -> "builtins.list[AgentPool]":
        """Tells of failures, too."""
        with self._timed("List"):
            found = await self._cloud.list()
        self._failed &= {(pool.name, pool.etag) for pool in found}
        for pool in found:
            self._see(pool)
        return found

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        """No call, as a rule."""
        return await self._cloud.outlook(wanted)

    async def close(self) -> None:
        """As it is."""
        await self._cloud.close()

    def _see(self, pool: AgentPool) -> None:
        if pool.problem is not None and (pool.name, pool.etag) not in self._failed:
            self._failed.add((pool.name, pool.etag))
            self._metrics.failures.labels("async", pool.problem.reason).inc()

    @contextmanager
    def _timed(self, method: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except CloudError as error:
            self._metrics.errors.labels(CONTROLLER, method, PROVIDER, error.refusal.reason).inc()
            raise
        finally:
            self._metrics.seconds.labels(CONTROLLER, method, PROVIDER).observe(time.monotonic() - started)
