"""Azure's stand-in answers the real SDK as AKS would."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.mgmt.containerservice.aio import ContainerServiceClient
from azure.mgmt.containerservice.aio.operations import AgentPoolsOperations
from azure.mgmt.containerservice.models import AgentPool

from local_cluster.azure import AzureStandIn
from local_cluster.azure_machines import RecordOnly, VirtualMachine
from local_cluster.errors import LocalClusterError
from tests.support.azure import ANY_TOKEN, POOLS, WHERE, Azure, Recorded, running, sdk
from tests.support.ports import free_port
from tests.support.waiting import eventually

WANTED = {"properties": {"count": 1, "vmSize": "Standard_NC12s_v3", "nodeLabels": {"a": "b"}, "tags": {"c": "d"}}}
NODE = "aks-ws1-74871745-vmss000000"
VERSION = {"api-version": "2026-08-01"}
Pools = AgentPoolsOperations


@pytest.fixture
def machines() -> Recorded:
    return Recorded()


@pytest.fixture
async def azure(machines: Recorded) -> AsyncIterator[Azure]:
    async with running(AzureStandIn(machines, boot_seconds=0.05, throttled=False)) as serving:
        yield serving


@pytest.fixture
async def client(azure: Azure) -> AsyncIterator[ContainerServiceClient]:
    async with sdk(azure) as connected:
        yield connected


@pytest.fixture
def pools(client: ContainerServiceClient) -> Pools:
    return client.agent_pools


async def created(pools: Pools, name: str = "ws1") -> Any:
    """The pool once the operation has ended."""
    return await (await pools.begin_create_or_update(*WHERE, name, AgentPool(WANTED))).result()


async def asked_for(pools: Pools, name: str = "ws1") -> Any:
    """The pool as the PUT answered it."""
    return await (await pools.begin_create_or_update(*WHERE, name, AgentPool(WANTED), polling=False)).result()


async def test_a_pool_is_created_and_its_machine_runs(azure: Azure, pools: Pools, machines: Recorded) -> None:
    first = await asked_for(pools)
    assert first.properties.provisioning_state == "Creating"
    done = await created(pools, "ws2")

    assert done.properties.provisioning_state == "Succeeded"
    assert done.name == "ws2"
    assert (
        done.id == "/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/group/providers"
        "/Microsoft.ContainerService/managedClusters/prod/agentPools/ws2"
    )
    assert {name.split("-")[1] for name in machines.running} == {"ws1", "ws2"}
    assert azure.calls("PUT") == [("PUT", 201), ("PUT", 201)]
    assert [pool.name async for pool in pools.list(*WHERE)] == ["ws1", "ws2"]


async def test_an_answer_says_where_to_ask_after_the_operation(azure: Azure) -> None:
    async with (
        aiohttp.ClientSession(azure.url, headers=ANY_TOKEN) as session,
        session.put(f"{POOLS}/ws1", json=WANTED, params=VERSION) as answer,
    ):
        where = answer.headers["Azure-AsyncOperation"]
        assert answer.headers["Location"] == where.replace("/operations/", "/operationresults/")
        assert answer.headers["Retry-After"] == "10"
        async with session.get(where) as operation:
            told = await operation.json()
    assert (told["status"], where.partition("?")[0].endswith(told["name"])) == ("InProgress", True)


async def test_every_change_has_another_etag(pools: Pools) -> None:
    creating = (await asked_for(pools)).properties.e_tag
    done = (await created(pools, "ws2")).properties.e_tag
    settled: Any = await pools.get(*WHERE, "ws2")
    assert creating != done == settled.properties.e_tag


async def test_a_condition_that_does_not_hold_is_412(pools: Pools) -> None:
    await created(pools)
    with pytest.raises(ResourceExistsError) as exists:
        await pools.begin_create_or_update(*WHERE, "ws1", AgentPool(WANTED), match_condition=MatchConditions.IfMissing)
    old: dict[str, Any] = {"etag": "old", "match_condition": MatchConditions.IfNotModified}
    with pytest.raises(ResourceModifiedError) as not_deleted:
        await pools.begin_delete(*WHERE, "ws1", **old)
    with pytest.raises(ResourceModifiedError) as not_changed:
        await pools.begin_create_or_update(*WHERE, "ws1", AgentPool(WANTED), **old)
    assert [refused.value.status_code for refused in (exists, not_deleted, not_changed)] == [412, 412, 412]


async def test_a_deleted_pool_is_gone_and_its_machine_too(azure: Azure, pools: Pools, machines: Recorded) -> None:
    pool = await created(pools)
    poller = await pools.begin_delete(
        *WHERE, "ws1", etag=pool.properties.e_tag, match_condition=MatchConditions.IfNotModified
    )
    await poller.result()

    with pytest.raises(ResourceNotFoundError, match="Agent Pool not found") as missing:
        await pools.get(*WHERE, "ws1")
    assert missing.value.error is not None
    assert missing.value.error.code == "NotFound"
    assert (machines.running, len(machines.started)) == ({}, 1)

    await (await pools.begin_delete(*WHERE, "ws1")).result()
    assert azure.calls("DELETE") == [("DELETE", 202), ("DELETE", 204)]


async def test_a_pool_deleted_while_it_is_creating_never_gets_its_machine(
    azure: Azure, pools: Pools, machines: Recorded
) -> None:
    await azure.ask("PUT", "/control/boot", json={"seconds": 600})
    async with (
        aiohttp.ClientSession(azure.url, headers=ANY_TOKEN) as session,
        session.put(f"{POOLS}/ws1", json=WANTED, params=VERSION) as answer,
    ):
        creation = answer.headers["Azure-AsyncOperation"]
        await (await pools.begin_delete(*WHERE, "ws1")).result()
        async with session.get(creation) as operation:
            assert (await operation.json())["status"] == "Canceled"
    assert machines.started == []


async def test_a_failed_creation_says_why_and_leaves_a_failed_pool(
    azure: Azure, pools: Pools, machines: Recorded
) -> None:
    cause = {"code": "OperationNotAllowed", "message": "exceeding approved Family Cores quota"}
    why = {"code": "CreateVMSSAgentPoolFailed", "message": "wrapped", "details": [cause]}
    await azure.fault(method="PUT", fails=why, times=1)

    with pytest.raises(HttpResponseError) as failed:
        await created(pools)

    assert failed.value.error is not None
    assert failed.value.error.code == "CreateVMSSAgentPoolFailed"
    left: Any = await pools.get(*WHERE, "ws1")
    assert left.properties.provisioning_state == "Failed"
    assert left.properties.status.provisioning_error.details[0].code == "OperationNotAllowed"
    assert machines.started == []


async def test_a_machine_that_does_not_start_is_a_failed_pool() -> None:
    class Broken(RecordOnly):
        async def start(self, machine: VirtualMachine) -> None:
            raise LocalClusterError("no address is left")

    async with running(AzureStandIn(Broken(), boot_seconds=0)) as azure, sdk(azure) as client:
        with pytest.raises(HttpResponseError, match="no address is left"):
            await created(client.agent_pools)


async def test_an_existing_pool_is_changed_where_it_may_be(azure: Azure, pools: Pools) -> None:
    await created(pools)
    changed = AgentPool({"properties": {**WANTED["properties"], "nodeLabels": {"a": "c"}}})
    done: Any = await (await pools.begin_create_or_update(*WHERE, "ws1", changed)).result()
    assert (done.properties.node_labels, done.properties.provisioning_state) == ({"a": "c"}, "Succeeded")

    other = AgentPool({"properties": {**WANTED["properties"], "vmSize": "Standard_NC6s_v3"}})
    with pytest.raises(HttpResponseError, match=r"Changing property 'properties.vmSize' is not allowed"):
        await pools.begin_create_or_update(*WHERE, "ws1", other)
    assert azure.calls("PUT") == [("PUT", 201), ("PUT", 200), ("PUT", 400)]


async def test_taints_that_can_be_taken_off_are_no_affair_of_one_pool(azure: Azure, pools: Pools) -> None:
    """AKS takes them with the whole cluster only."""
    wanted = {"properties": {**WANTED["properties"], "nodeInitializationTaints": ["example.com/driver=x:NoSchedule"]}}
    with pytest.raises(HttpResponseError) as refused:
        await pools.begin_create_or_update(*WHERE, "ws1", AgentPool(wanted))
    code = refused.value.error and refused.value.error.code
    assert (refused.value.status_code, code) == (400, "NodeInitializationTaintsFeatureNotSupported")
    assert azure.stand_in.pools.by_name == {}


async def test_one_operation_at_a_time(azure: Azure, pools: Pools) -> None:
    await azure.ask("PUT", "/control/boot", json={"seconds": 600})
    await asked_for(pools)
    with pytest.raises(ResourceExistsError, match=r"Another agentpool operation \(ws1 - Creating\)") as busy:
        await pools.begin_create_or_update(*WHERE, "ws1", AgentPool(WANTED))
    assert (busy.value.status_code, busy.value.error and busy.value.error.code) == (409, "OperationNotAllowed")


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("Ws1", WANTED, "InvalidParameter"),
        ("w" * 13, WANTED, "InvalidParameter"),
        ("1ws", WANTED, "InvalidParameter"),
        ("ws1", {"properties": {}}, "InvalidParameter"),
        ("ws1", {}, "InvalidRequestContent"),
        ("ws1", [], "InvalidRequestContent"),
    ],
)
async def test_what_is_no_agent_pool_is_refused(azure: Azure, name: str, body: Any, says: str) -> None:
    status, told = await azure.ask("PUT", f"{POOLS}/{name}", json=body, params=VERSION, headers=ANY_TOKEN)
    assert (status, told["error"]["code"]) == (400, says)


async def test_the_front_door_wants_a_token_and_a_version(azure: Azure) -> None:
    status, told = await azure.ask("GET", POOLS, params=VERSION)
    assert (status, told["error"]["code"]) == (401, "AuthenticationFailed")
    status, told = await azure.ask("GET", POOLS, headers=ANY_TOKEN)
    assert (status, told["error"]["code"]) == (400, "MissingApiVersionParameter")


async def test_a_cluster_has_a_hundred_pools_at_most(azure: Azure) -> None:
    async with aiohttp.ClientSession(azure.url, headers=ANY_TOKEN) as session:
        answers = []
        for number in range(101):
            async with session.put(f"{POOLS}/ws{number}", json=WANTED, params=VERSION) as answer:
                answers.append(answer.status)
    assert answers == [201] * 100 + [400]


@pytest.mark.faults
async def test_a_lost_answer_is_lost_before_or_after_the_pool_is_there(azure: Azure, pools: Pools) -> None:
    # Twice each: aiohttp repeats an idempotent request once when its connection breaks.
    await azure.fault(method="PUT", path="ws1$", reset=True, times=2)
    await azure.fault(method="PUT", path="ws2$", reset=True, after_commit=True, times=2)
    for name in ("ws1", "ws2"):
        with pytest.raises(ServiceRequestError):
            await pools.begin_create_or_update(*WHERE, name, AgentPool(WANTED), polling=False, retry_total=0)
    assert [pool.name async for pool in pools.list(*WHERE)] == ["ws2"]
    assert azure.calls("PUT") == [("PUT", 0)] * 4


@pytest.mark.faults
async def test_a_fault_strikes_as_often_as_asked_for_or_until_it_is_healed(azure: Azure) -> None:
    async def status() -> int:
        return (await azure.ask("GET", POOLS, params=VERSION, headers=ANY_TOKEN))[0]

    await azure.fault(method="GET", status=429, headers={"Retry-After": "7"}, times=2)
    assert [await status() for _ in range(3)] == [429, 429, 200]
    await azure.fault(status=503)
    assert [await status() for _ in range(3)] == [503, 503, 503]
    await azure.heal()
    assert await status() == 200


async def test_the_history_tells_every_call(azure: Azure, pools: Pools) -> None:
    await asked_for(pools)
    _, history = await azure.ask("GET", "/control/history")
    told = history[0]
    assert (told["method"], told["path"], told["status"]) == ("PUT", f"{POOLS}/ws1", 201)
    assert '"vmSize": "Standard_NC12s_v3"' in told["body"]
    await azure.ask("DELETE", "/control/history")
    assert azure.calls() == []


async def test_a_long_list_comes_in_pages(azure: Azure, pools: Pools) -> None:
    await azure.set(page_size=2)
    for number in range(5):
        await asked_for(pools, f"ws{number}")
    assert [pool.name async for pool in pools.list(*WHERE)] == [f"ws{number}" for number in range(5)]
    assert len(azure.calls("GET")) == 3


async def test_an_aborted_creation_is_canceling_then_canceled_and_nothing_is_rolled_back(
    azure: Azure, pools: Pools, machines: Recorded
) -> None:
    await azure.set(boot_seconds=600, operation_seconds=0.05)
    await asked_for(pools)
    aborting = await pools.begin_abort_latest_operation(*WHERE, "ws1")
    during: Any = await pools.get(*WHERE, "ws1")
    await aborting.result()
    after: Any = await pools.get(*WHERE, "ws1")
    states = (during.properties.provisioning_state, after.properties.provisioning_state)
    assert (states, machines.started) == (("Canceling", "Canceled"), [])

    with pytest.raises(ResourceExistsError, match="has completed already"):
        await pools.begin_abort_latest_operation(*WHERE, "ws1")
    with pytest.raises(ResourceNotFoundError, match="Agent Pool not found"):
        await pools.begin_abort_latest_operation(*WHERE, "ws2")
    await (await pools.begin_delete(*WHERE, "ws1")).result()
    assert azure.stand_in.pools.by_name == {}


async def test_a_creation_may_be_made_to_stand_in_the_way_of_a_deletion(azure: Azure, pools: Pools) -> None:
    await azure.set(boot_seconds=600, delete_while_creating="conflicts")
    await asked_for(pools)
    with pytest.raises(ResourceExistsError, match=r"agentpool operation \(ws1 - Creating\) is in progress"):
        await pools.begin_delete(*WHERE, "ws1")


async def test_a_disruption_budget_holds_up_a_deletion_that_does_not_ignore_it(
    azure: Azure, pools: Pools, machines: Recorded
) -> None:
    await azure.set(budgets=["ws1"])
    await created(pools)
    with pytest.raises(HttpResponseError, match="Pod Disruption Budget"):
        await (await pools.begin_delete(*WHERE, "ws1")).result()
    kept: Any = await pools.get(*WHERE, "ws1")
    assert (kept.properties.provisioning_state, len(machines.running)) == ("Failed", 1)
    assert kept.properties.status.provisioning_error.code == "PodDrainFailure"

    await (await pools.begin_delete(*WHERE, "ws1", ignore_pod_disruption_budget=True)).result()
    assert (azure.stand_in.pools.by_name, machines.running) == ({}, {})


async def test_an_operation_on_the_cluster_and_another_cluster_are_told_apart(azure: Azure, pools: Pools) -> None:
    await azure.set(cluster_operation="Upgrading")
    with pytest.raises(ResourceExistsError, match=r"Another operation \(Upgrading\) is in progress"):
        await asked_for(pools)
    await azure.set(cluster_operation="", cluster="prod")
    assert [pool async for pool in pools.list(*WHERE)] == []
    with pytest.raises(
        ResourceNotFoundError, match="managedClusters/other' under resource group 'group' was not"
    ) as no:
        await pools.get("group", "other", "ws1")
    assert no.value.error is not None
    assert no.value.error.code == "ResourceNotFound"


async def test_a_pool_has_as_many_machines_as_it_counts(azure: Azure, pools: Pools, machines: Recorded) -> None:
    counted = [AgentPool({"properties": {**WANTED["properties"], "count": count}}) for count in (3, 1)]
    await (await pools.begin_create_or_update(*WHERE, "ws1", counted[0])).result()
    assert [name[-6:] for name in machines.running] == ["000000", "000001", "000002"]
    await (await pools.begin_create_or_update(*WHERE, "ws1", counted[1])).result()
    assert [name[-6:] for name in machines.running] == ["000000"]
    assert azure.calls("PUT") == [("PUT", 201), ("PUT", 200)]


async def test_a_spot_machine_is_marked_and_may_be_taken_back(azure: Azure, pools: Pools, machines: Recorded) -> None:
    spot = AgentPool({"properties": {**WANTED["properties"], "scaleSetPriority": "Spot"}})
    done: Any = await (await pools.begin_create_or_update(*WHERE, "ws1", spot)).result()
    assert (done.properties.scale_set_eviction_policy, done.properties.spot_max_price) == ("Delete", -1)
    (machine,) = machines.running.values()
    assert machine.labels["kubernetes.azure.com/scalesetpriority"] == "spot"
    assert [(t.key, t.value) for t in machine.taints] == [("kubernetes.azure.com/scalesetpriority", "spot")]

    assert (await azure.ask("POST", "/control/pools/ws1/evict"))[0] == 204
    left: Any = await pools.get(*WHERE, "ws1")
    assert (left.properties.count, left.properties.provisioning_state, machines.running) == (0, "Succeeded", {})
    await created(pools, "ws2")
    assert (await azure.ask("POST", "/control/pools/ws2/evict"))[0] == 404


@pytest.mark.faults
@pytest.mark.parametrize("request_class", ["put", "delete", "abort"])
async def test_any_operation_may_end_in_an_error_that_the_pool_tells(
    azure: Azure, pools: Pools, request_class: str
) -> None:
    await azure.set(boot_seconds=600 if request_class == "abort" else 0)
    await azure.fault(request=request_class, fails={"code": "InternalServerError", "message": "broken"}, times=1)
    if request_class == "put":
        operation: Any = await pools.begin_create_or_update(*WHERE, "ws1", AgentPool(WANTED))
    else:
        await (asked_for if request_class == "abort" else created)(pools)
        begin = pools.begin_delete if request_class == "delete" else pools.begin_abort_latest_operation
        operation = await begin(*WHERE, "ws1")
    with pytest.raises(HttpResponseError):
        await operation.result()
    left: Any = await pools.get(*WHERE, "ws1")
    told = left.properties.status.provisioning_error
    assert (left.properties.provisioning_state, told.code) == ("Failed", "InternalServerError")


async def test_a_machine_has_the_name_labels_taints_and_provider_id_of_aks(machines: Recorded) -> None:
    wanted = {"properties": {**WANTED["properties"], "nodeTaints": ["sku=gpu:NoSchedule"]}}
    async with running(AzureStandIn(machines, boot_seconds=0)) as azure, sdk(azure) as client:
        poller = await client.agent_pools.begin_create_or_update(*WHERE, "ws1", AgentPool(wanted))
        await poller.result()
    (machine,) = machines.running.values()
    scale_set = machine.name.removesuffix("000000")
    digits = scale_set.removeprefix("aks-ws1-").removesuffix("-vmss")

    assert (len(digits), digits.isdigit()) == (8, True)
    assert machine.labels == {
        "a": "b",
        "agentpool": "ws1",
        "kubernetes.azure.com/agentpool": "ws1",
        "kubernetes.azure.com/mode": "user",
        "node.kubernetes.io/instance-type": "Standard_NC12s_v3",
        "topology.kubernetes.io/region": "local",
        "topology.kubernetes.io/zone": "0",
    }
    assert [(taint.key, taint.value, taint.effect) for taint in machine.taints] == [("sku", "gpu", "NoSchedule")]
    assert machine.gpus == 2
    assert machine.provider_id == (
        "azure:///subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/mc_local_local_local/providers"
        f"/Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/0"
    )


def test_it_runs_alone_until_it_is_told_to_stop() -> None:
    port = free_port()
    command = [sys.executable, "-m", "local_cluster", "azure", "--port", str(port)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as alone:
        try:
            eventually(lambda: _pools_at(port) == [], within=20, what="it listens")
            alone.terminate()
            assert alone.wait(timeout=20) == 0
        finally:
            alone.kill()


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "70000"], "port 70000 cannot be had"),
        (["--boot-seconds", "-1"], "boot_seconds: Input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "local_cluster", "azure", *arguments]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr.count("\n"), says in ended.stderr) == (1, 1, True)


def _pools_at(port: int) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/control/pools", timeout=20) as answer:
            return json.load(answer)
    except urllib.error.URLError:
        return None
