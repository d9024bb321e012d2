"""Every fault of Azure's front door at every class of request, by the real client over HTTP: told, and made good."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kaito_operator.gpu_provisioner.azure import AgentPools, connect
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import Refusal
from local_cluster.azure import AzureStandIn
from local_cluster.azure_pools import Pool
from tests.support.azure import Azure, running
from tests.support.machine_life import NAME, OUTAGE, Life

pytestmark = [pytest.mark.faults, pytest.mark.money]

PATIENCE_OF_THE_CLIENT, TOO_LONG = 0.25, 0.35
"""Seconds: in life 30, and more than that."""
MOST_CALLS_A_MINUTE = 12
CLASSES = ("put", "delete", "get", "list")
TIMES = (1, 3, None)
"""Once, thrice, until healed."""


def answered(status: int, code: str = "", message: str = "no", **headers: str) -> dict[str, Any]:
    body = {"error": {"code": code, "message": message}} if code else {}
    return {"status": status, "body": body, "headers": {key.replace("_", "-"): told for key, told in headers.items()}}


BUSY = "Another agentpool operation (ws - Updating) is in progress"
FULL = "exceeding approved Total Regional Cores quota. Current Limit: 24"
GONE = "The Resource 'Microsoft.ContainerService/managedClusters/prod' was not found"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "400": (answered(400, "InvalidParameter"), "InvalidRequest"),
    "401": (answered(401, "ExpiredAuthenticationToken"), "AuthorizationFailed"),
    "403": (answered(403, "AuthorizationFailed"), "AuthorizationFailed"),
    "404 of the cluster": (answered(404, "ResourceNotFound", GONE), "ClusterNotFound"),
    "409 in progress": (answered(409, "OperationNotAllowed", BUSY), "OperationInProgress"),
    "409 quota": (answered(409, "OperationNotAllowed", FULL), "QuotaExceeded"),
    "412": (answered(412, "PreconditionFailed"), "Changed"),
    "429 in seconds": (answered(429, "Throttled", Retry_After="30"), "Throttled"),
    "429 by a date": (answered(429, "Throttled", Retry_After="Fri, 31 Dec 2100 23:59:59 GMT"), "Throttled"),
    "429 without a word": (answered(429, "Throttled"), "Throttled"),
    "429 for ages": (answered(429, "Throttled", Retry_After="999999"), "Throttled"),
    "500": (answered(500), "CloudUnavailable"),
    "500 after commit": ({**answered(500), "after_commit": True}, "CloudUnavailable"),
    "503": (answered(503, Retry_After="5"), "CloudUnavailable"),
    "reset before": ({"reset": True}, "CloudUnavailable"),
    "reset after commit": ({"reset": True, "after_commit": True}, "CloudUnavailable"),
    "slow": ({"delay": TOO_LONG}, "CloudUnavailable"),
    "slow and lost": ({"delay": TOO_LONG, "status": 503}, "CloudUnavailable"),
    "truncated": ({"truncated": True}, "CloudUnavailable"),
}
LOSES_ONLY_THE_ANSWER = ("500 after commit", "reset after commit", "truncated", "slow")


@dataclass
class OverHttp:
    """The real client; what it was asked for is counted once, though aiohttp repeats what was cut off."""

    client: AgentPools
    azure: Azure
    calls: list[str] = field(default_factory=list)

    @property
    def pools(self) -> dict[str, Pool]:
        return self.azure.stand_in.pools.by_name

    async def identify(self) -> None:
        await self.client.identify()

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        self.calls.append("create")
        return await self.client.create(name, wanted)

    async def delete(self, name: str, *, etag: str) -> None:
        self.calls.append("delete")
        await self.client.delete(name, etag=etag)

    async def abort(self, name: str) -> None:
        self.calls.append("abort")
        await self.client.abort(name)

    async def get(self, name: str) -> AgentPool | None:
        self.calls.append("get")
        return await self.client.get(name)

    async def list(self) -> list[AgentPool]:
        self.calls.append("list")
        return await self.client.list()

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        return await self.client.outlook(wanted)

    async def close(self) -> None:
        await self.client.close()


def sampled() -> list[tuple[str, str, int | None]]:
    """Every fault at every class of request, each with one of the three numbers of times, all equally often."""
    pairs = itertools.product(enumerate(FAULTS), enumerate(CLASSES))
    return [(what, kind, TIMES[(row + column) % len(TIMES)]) for (row, what), (column, kind) in pairs]


async def until(life: Life, azure: Azure, reached: Callable[[], bool], *, fault: dict[str, Any]) -> None:
    """There, with the fault in force on the way; one that is not counted is healed after a while."""
    await azure.fault(**fault)
    if fault["times"] is None:
        await life.until(reached, rounds=OUTAGE)
        await azure.heal()
    assert await life.until(reached), (fault, life.machine, life.pools.known(NAME))
    await azure.heal()


@pytest.mark.parametrize("what", FAULTS)
async def test_every_fault_is_told_and_made_good_without_a_second_pool(
    what: str, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    answer, reason = FAULTS[what]
    cases = [(kind, times) for each, kind, times in sampled() if each == what]
    for kind, times in cases:
        async with running(AzureStandIn(boot_seconds=0, throttled=False)) as azure:
            fault = {**answer, "request": kind, "times": times}
            client = connect(azure.settings(tmp_path / "token"), request_seconds=PATIENCE_OF_THE_CLIENT)
            life = Life(OverHttp(client, azure))
            await until(life, azure, lambda life=life: life.ready, fault=fault)  # type: ignore[misc]  # mypy #2608
            life.give_up()
            await until(life, azure, lambda life=life: life.machine is None, fault=fault)  # type: ignore[misc]
            await client.close()
            case, history = (what, kind, times), azure.stand_in.history
            made = [call for call in history if (call["method"], call["carried_out"]) == ("PUT", 201)]
            struck = {call["class"] for call in history if call["fault"]}
            assert (len(made), azure.stand_in.pools.by_name) == (1, {}), case
            assert life.hottest_minute() <= MOST_CALLS_A_MINUTE, case
            assert kind == "list" or struck == {kind}, case
            assert kind != "put" or what in LOSES_ONLY_THE_ANSWER or reason in life.reasons, (case, life.reasons)
    count_cases("provisioner faults over HTTP", len(cases))
