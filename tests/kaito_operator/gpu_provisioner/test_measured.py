"""What is counted of the calls to the cloud."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from kaito_operator.gpu_provisioner.cloud import CloudError
from kaito_operator.gpu_provisioner.errors import classified
from kaito_operator.gpu_provisioner.measured import CloudMetrics, Measured
from tests.support.record_only import RecordOnlyCloud

WANTED = {"properties": {"vmSize": "Standard_NC12s_v3", "tags": {}}}
CALLS = "karpenter_cloudprovider_duration_seconds_count"
ERRORS = "karpenter_cloudprovider_errors_total"
STARTED = "karpenter_cloudprovider_instance_vm_create_start_total"
FAILED = "karpenter_cloudprovider_instance_vm_create_failure_total"
ENDED = "karpenter_nodeclaims_instance_termination_duration_seconds_count"


class Scene:
    """A cloud that only writes down, and what is counted of it."""

    def __init__(self) -> None:
        self.registry, self.inner = CollectorRegistry(), RecordOnlyCloud()
        self.cloud = Measured(self.inner, CloudMetrics(self.registry))

    def of(self, name: str, method: str = "", **labels: str) -> float:
        """A sample; 0 if there is none."""
        where = {"controller": "gpu-provisioner", "method": method, "provider": "azure"} if method else {}
        return self.registry.get_sample_value(name, {**where, **labels}) or 0.0


async def test_every_call_is_timed_under_karpenters_name() -> None:
    scene = Scene()
    await scene.cloud.create("ws1", WANTED)
    assert await scene.cloud.get("ws1") == scene.inner.pools["ws1"]
    assert await scene.cloud.list() == [scene.inner.pools["ws1"]]
    await scene.cloud.abort("ws1")
    await scene.cloud.delete("ws1", etag="")
    methods = {method: scene.of(CALLS, method) for method in ("Create", "Get", "List", "Abort", "Delete")}
    assert methods == {"Create": 1, "Get": 1, "List": 1, "Abort": 1, "Delete": 1}
    assert (scene.of(STARTED), scene.of(ENDED)) == (1, 0)
    assert await scene.cloud.get("ws1") is None
    assert await scene.cloud.get("ws1") is None
    assert scene.of(ENDED) == 1


async def test_a_refusal_is_counted_by_its_reason() -> None:
    scene = Scene()
    scene.inner.refuse["create"] = classified(429, {"code": "Throttled"})
    with pytest.raises(CloudError):
        await scene.cloud.create("ws1", WANTED)
    assert scene.of(ERRORS, "Create", error="Throttled") == 1
    assert (scene.of(STARTED), scene.of(FAILED, phase="sync", error_code="Throttled")) == (1, 1)
    assert scene.of(CALLS, "Create") == 1


async def test_a_pool_that_came_to_nothing_is_counted_once_however_often_it_is_seen() -> None:
    scene = Scene()
    made = await scene.cloud.create("ws1", WANTED)
    no = classified(400, {"code": "AllocationFailed"})
    scene.inner.pools["ws1"] = replace(made, state="Failed", etag="2", problem=no)
    await scene.cloud.get("ws1")
    await scene.cloud.list()
    await scene.cloud.list()
    assert scene.of(FAILED, phase="async", error_code="AllocationFailed") == 1
    scene.inner.pools["ws1"] = replace(made, state="Failed", etag="3", problem=no)
    await scene.cloud.list()
    assert scene.of(FAILED, phase="async", error_code="AllocationFailed") == 2
