"""The agent pools of the real SDK, against Azure's stand-in over HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.mgmt.containerservice.aio import ContainerServiceClient

from kaito_operator.gpu_provisioner.agent_pool import agent_pool
from kaito_operator.gpu_provisioner.azure import AgentPools, connect
from kaito_operator.gpu_provisioner.cloud import CloudError
from kaito_operator.gpu_provisioner.errors import UNAVAILABLE
from kaito_operator.settings import ProvisionerSettings
from local_cluster.azure import AzureStandIn
from tests.support.azure import Azure, running
from tests.support.machines import a_machine

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME = "ws0123456789"
WANTED = agent_pool(a_machine(), cluster="prod", now=NOON)


@pytest.fixture
async def azure() -> AsyncIterator[Azure]:
    async with running(AzureStandIn(boot_seconds=600, throttled=False)) as serving:
        yield serving


@pytest.fixture
async def pools(azure: Azure, tmp_path: Path) -> AsyncIterator[AgentPools]:
    connected = connect(azure.settings(tmp_path / "token"))
    yield connected
    await connected.close()


async def test_a_pool_is_created_without_waiting_and_read_back(azure: Azure, pools: AgentPools) -> None:
    made = await pools.create(NAME, WANTED)

    assert (made.name, made.state, made.vm_size) == (NAME, "Creating", "Standard_NC12s_v3")
    assert made.bears(
        {"kaito.sh_cluster": "prod", "kaito.sh_workspace-uid": "workspace-uid", "kaito.sh_machine-uid": "machine-uid"}
    )
    assert (made.asked_at, made.problem) == (NOON, None)
    assert await pools.get(NAME) == made
    assert await pools.list() == [made]
    assert azure.calls() == [("PUT", 201), ("GET", 200), ("GET", 200)]


async def test_what_is_there_is_not_created_again(pools: AgentPools) -> None:
    await pools.create(NAME, WANTED)
    with pytest.raises(CloudError) as refused:
        await pools.create(NAME, WANTED)
    assert refused.value.refusal.reason == "Changed"


async def test_a_pool_is_deleted_in_the_version_that_was_seen(azure: Azure, pools: AgentPools) -> None:
    made = await pools.create(NAME, WANTED)
    with pytest.raises(CloudError) as changed:
        await pools.delete(NAME, etag="older")
    assert changed.value.refusal.reason == "Changed"

    await pools.delete(NAME, etag=made.etag)
    assert await pools.get(NAME) is None
    await pools.delete(NAME, etag=made.etag)
    assert azure.calls("DELETE") == [("DELETE", 412), ("DELETE", 202), ("DELETE", 204)]


async def test_a_failed_pool_says_why_as_if_the_put_had_been_refused(azure: Azure, pools: AgentPools) -> None:
    cause = {"code": "ZonalAllocationFailed", "message": "no capacity in zone 1"}
    await azure.fault(method="PUT", fails={"code": "CreateVMSSAgentPoolFailed", "message": "x", "details": [cause]})
    await azure.ask("PUT", "/control/boot", json={"seconds": 0})
    await pools.create(NAME, WANTED)
    failed = await pools.get(NAME)

    assert failed is not None
    assert failed.problem is not None
    assert (failed.state, failed.problem.reason) == ("Failed", "AllocationFailed")
    assert failed.problem.message.startswith(UNAVAILABLE)


ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "no role": (
        {"status": 403, "body": {"error": {"code": "AuthorizationFailed", "message": "x"}}},
        "AuthorizationFailed",
    ),
    "no token": (
        {"status": 401, "body": {"error": {"code": "ExpiredAuthenticationToken", "message": "x"}}},
        "AuthorizationFailed",
    ),
    "throttled": ({"status": 429, "headers": {"Retry-After": "3600"}}, "Throttled"),
    "throttled until a date": (
        {"status": 429, "headers": {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}},
        "Throttled",
    ),
    "conflict that asks to wait": ({"status": 409, "headers": {"Retry-After": "3600"}}, "OperationInProgress"),
    "broken": ({"status": 500}, "CloudUnavailable"),
    "unavailable": ({"status": 503, "headers": {"Retry-After": "3600"}}, "CloudUnavailable"),
    "no cluster": (
        {"status": 404, "body": {"error": {"code": "ResourceNotFound", "message": "managedClusters/prod not found"}}},
        "ClusterNotFound",
    ),
    "connection cut": ({"reset": True}, "CloudUnavailable"),
    "answer cut": ({"truncated": True}, "CloudUnavailable"),
}


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["create", "get", "list", "delete"])
@pytest.mark.parametrize("case", ANSWERS)
async def test_a_refusal_comes_back_at_once_whatever_retry_after_says(
    azure: Azure, pools: AgentPools, case: str, verb: str
) -> None:
    fault, reason = ANSWERS[case]
    ask: dict[str, Callable[[], Awaitable[object]]] = {
        "create": lambda: pools.create(NAME, WANTED),
        "get": lambda: pools.get(NAME),
        "list": pools.list,
        "delete": lambda: pools.delete(NAME, etag="e"),
    }
    await azure.fault(**fault)
    with pytest.raises(CloudError) as refused:
        await ask[verb]()
    assert refused.value.refusal.reason == reason
    assert 0 < refused.value.refusal.retry_after <= 3600
    assert len(azure.calls()) == (2 if fault.get("reset") else 1)  # aiohttp repeats once what was cut off


class Unfederated:
    """A credential like that of a pod whose service account nobody federated."""

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        raise ClientAuthenticationError("AADSTS70021: No matching federated identity record found")

    async def close(self) -> None: ...


async def test_an_identity_that_is_not_federated_yet_is_a_refusal_that_says_so() -> None:
    credential: Any = Unfederated()
    pools = AgentPools(ContainerServiceClient(credential, "s"), credential, resource_group="g", cluster="c")
    with pytest.raises(CloudError) as refused:
        await pools.get(NAME)
    await pools.close()
    assert refused.value.refusal.reason == "AuthorizationFailed"
    assert "AADSTS70021" in refused.value.refusal.message
    assert "federated" in refused.value.refusal.message


def test_a_token_file_that_is_not_there_yet_does_not_end_the_process(tmp_path: Path) -> None:
    settings = ProvisionerSettings(
        subscription="s", resource_group="g", cluster="c", tenant="t", client="c", federated_token_file="/nowhere"
    )
    assert isinstance(connect(settings), AgentPools)
