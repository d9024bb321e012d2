"""Every fault of Azure's front door at every class of request, as often as can be, by the real client over HTTP.

Many cases live at once, each with a cluster and a Machine of its own, before one stand-in. Slow answers are slow in
fact, and wait together; all else passes on clocks of their own.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kaito_operator.gpu_provisioner.azure import REQUEST_SECONDS, AgentPools, connect
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import Refusal
from local_cluster.azure import AzureStandIn
from local_cluster.azure_faults import Fault
from local_cluster.azure_pools import Pool
from tests.support.azure import Azure, running
from tests.support.machine_life import OUTAGE, Life

pytestmark = [pytest.mark.faults, pytest.mark.money]

PATIENCE_OF_THE_CLIENT, TOO_LONG = 0.4, 0.6
"""Seconds where an answer is slow: in life 30, and more than that."""
AT_ONCE = 12
"""Cases that compute at the same time."""
MOST_CALLS_A_MINUTE = 12
CLASSES = ("put", "delete", "get", "list", "abort", "usages", "skus")
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


USUAL = {"", "Launching", "agent pool Deleting", "deleting the agent pool", "asking for the agent pool"}
TELLS: dict[str, Callable[[Life, str], bool]] = {
    "put": lambda life, reason: reason in life.reasons,
    "get": lambda life, reason: reason in life.reasons,
    "delete": lambda life, _: any(message not in USUAL for message in life.messages_of_the_end),
    "list": lambda life, _: any("as last seen: " in message for message in life.messages),
}
"""Class of request → whether the conditions of a life told the cause."""


@dataclass
class Case:
    """One fault at one class of request, before a cluster of its own."""

    number: int
    what: str
    kind: str
    times: int | None
    azure: Azure
    directory: Path

    @property
    def name(self) -> str:
        """Of the Machine and of the cluster."""
        return f"c{self.number}"

    @property
    def history(self) -> list[dict[str, Any]]:
        """The calls about the agent pools of this case."""
        return [call for call in self.azure.stand_in.history if f"/managedClusters/{self.name}/" in call["path"]]

    async def passes(self) -> None:
        """A life, with the fault in force on the way up and on the way down. Raises AssertionError."""
        settings = self.azure.settings(self.directory / self.name, location=f"{self.name}region")
        settings = settings.model_copy(update={"cluster": self.name})
        patience = PATIENCE_OF_THE_CLIENT if "slow" in self.what else REQUEST_SECONDS
        client = connect(settings, request_seconds=patience)
        life = Life(OverHttp(client, self.azure), name=self.name)
        try:
            await self._up_and_down(life)
        finally:
            await client.close()
        self._judged(life)

    async def _up_and_down(self, life: Life) -> None:
        if self.kind == "abort":
            await life.until(lambda: life.condition.get("reason") == "Creating")
        else:
            await self._until(life, lambda: life.ready)
        life.give_up()
        await self._until(life, lambda: life.machine is None)

    async def _until(self, life: Life, reached: Callable[[], bool]) -> None:
        """There, with the fault in force on the way; one that is not counted is healed after a while."""
        where = f"/{self.name}region" if self.kind == "usages" else f"/managedClusters/{self.name}/"
        where = "/skus" if self.kind == "skus" else where
        told = {**FAULTS[self.what][0], "request": self.kind, "path": where, "times": self.times}
        self.azure.stand_in.faults.add(Fault.model_validate(told))
        if self.times is None:
            await life.until(reached, seconds=OUTAGE)
            self._healed(where)
        assert await life.until(reached), (self, life.machine, life.pools.known(self.name))
        self._healed(where)

    def _healed(self, where: str) -> None:
        active = self.azure.stand_in.faults.active
        active[:] = [fault for fault in active if (fault.path, fault.request) != (where, self.kind)]

    def _judged(self, life: Life) -> None:
        told = (self.what, self.kind, self.times, life.reasons)
        made = [call for call in self.history if (call["method"], call["carried_out"]) == ("PUT", 201)]
        struck = {call["class"] for call in self.history if call["fault"]}
        assert (len(made), self.name in self.azure.stand_in.pools.by_name) == (1, False), told
        assert life.hottest_minute() <= MOST_CALLS_A_MINUTE, told
        if self.kind in ("put", "delete", "get", "abort"):
            assert struck == {self.kind}, told
        assert self.kind not in TELLS or not self._is_felt() or TELLS[self.kind](life, FAULTS[self.what][1]), told

    def _is_felt(self) -> bool:
        """aiohttp sends once more what was cut off, and the second answer of a lost write is its first.

        A LIST that comes late is missed by nobody, and on a busy machine others than the slow ones are late too.
        """
        if self.kind == "list" or "slow" in self.what:
            return self.times is None and not (self.kind == "list" and "slow" in self.what)
        unfelt = LOSES_ONLY_THE_ANSWER if self.kind in ("put", "delete") else ()
        return self.what not in unfelt and not (self.what.startswith("reset") and self.times == 1)


def cases(azure: Azure, directory: Path, kinds: Iterable[str], *, slow: bool) -> list[Case]:
    """Every fault at every class of these, once, thrice, and until it is healed."""
    faults = [what for what in FAULTS if ("slow" in what) == slow]
    every = enumerate(itertools.product(faults, kinds, TIMES))
    return [Case(number, what, kind, times, azure, directory) for number, (what, kind, times) in every]


async def passed(every: list[Case], *, at_once: int) -> None:
    """All of them, so many at the same time."""
    room = asyncio.Semaphore(at_once)

    async def one(case: Case) -> None:
        async with room:
            await case.passes()

    async with asyncio.TaskGroup() as group:
        for case in every:
            group.create_task(one(case))


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "slowly"])
async def test_every_fault_is_told_and_made_good_without_a_second_pool(
    slow: bool, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    async with running(AzureStandIn(boot_seconds=0, throttled=False)) as azure:
        every = cases(azure, tmp_path, [kind for kind in CLASSES if kind != "abort"], slow=slow)
        await passed(every, at_once=len(every) if slow else AT_ONCE)
    count_cases("provisioner faults over HTTP", len(every))


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "slowly"])
async def test_every_fault_of_an_abort_is_made_good_too(
    slow: bool, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    """A Machine that is deleted while its pool is Creating, where that stands in the way of a deletion."""
    stand_in = AzureStandIn(boot_seconds=3600, throttled=False, delete_while_creating="conflicts")
    async with running(stand_in) as azure:
        every = cases(azure, tmp_path, ["abort"], slow=slow)
        await passed(every, at_once=len(every) if slow else AT_ONCE)
    count_cases("provisioner faults over HTTP", len(every))
