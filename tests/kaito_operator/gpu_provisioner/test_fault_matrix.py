"""Every fault of the cloud at every class of request: told in the status, kept cool, and made good once healed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import LONGEST_WAIT, Refusal, classified
from kaito_operator.kube.errors import retry_after
from tests.support.machine_life import NAME, OUTAGE, Life
from tests.support.record_only import RecordOnlyCloud

pytestmark = [pytest.mark.faults, pytest.mark.money]

MOST_CALLS_A_MINUTE = 12


def said(code: str, message: str = "no") -> dict[str, Any]:
    return {"code": code, "message": message}


def fault(status: int, body: dict[str, Any] | None = None, *, after: str | None = None) -> Refusal:
    """As ``azure.py`` makes it of an answer."""
    return classified(status, body, retry_after=retry_after(after))


BUSY = said("OperationNotAllowed", "Another operation (ws - Updating) is in progress")
FULL = said("OperationNotAllowed", "exceeding approved Total Regional Cores quota. Current Limit: 24")
FAULTS: dict[str, tuple[Refusal, str]] = {
    "400": (fault(400, said("InvalidParameter")), "InvalidRequest"),
    "401": (fault(401, said("ExpiredAuthenticationToken")), "AuthorizationFailed"),
    "403": (fault(403, said("AuthorizationFailed")), "AuthorizationFailed"),
    "404 of the cluster": (fault(404, said("ResourceNotFound")), "ClusterNotFound"),
    "409 in progress": (fault(409, BUSY), "OperationInProgress"),
    "409 quota": (fault(409, FULL), "QuotaExceeded"),
    "412": (fault(412, said("PreconditionFailed")), "Changed"),
    "429 in seconds": (fault(429, said("Throttled"), after="30"), "Throttled"),
    "429 by a date": (fault(429, said("Throttled"), after="Fri, 02 Jan 2099 12:00:00 GMT"), "Throttled"),
    "429 without a word": (fault(429, said("Throttled")), "Throttled"),
    "429 for ages": (fault(429, said("Throttled"), after="999999"), "Throttled"),
    "500": (fault(500), "CloudUnavailable"),
    "503": (fault(503, after="5"), "CloudUnavailable"),
    "reset": (fault(0, {"message": "connection reset"}), "CloudUnavailable"),
    "cut off": (fault(0, {"message": "truncated"}), "CloudUnavailable"),
}
REQUESTS = ("create", "delete", "get", "list")
TIMES = {"once": 1, "thrice": 3, "until healed": None}
COMMITTED = {"before commit": False, "after commit": True}


@dataclass
class Faulty(RecordOnlyCloud):
    """One fault at one class of request; ``after_commit``: the request is carried out and only its answer lost."""

    verb: str = ""
    refusal: Refusal | None = None
    left: int | None = None
    after_commit: bool = False
    struck: int = 0
    made: int = 0

    async def create(self, name: str, wanted: Any) -> AgentPool:
        if self.after_commit:
            pool = await super().create(name, wanted)
            self.made += 1
            self._strike("create")
            return pool
        self._strike("create")
        self.made += 1
        return await super().create(name, wanted)

    async def delete(self, name: str, *, etag: str) -> None:
        if not self.after_commit:
            self._strike("delete")
        await super().delete(name, etag=etag)
        if self.after_commit:
            self._strike("delete")

    async def get(self, name: str) -> AgentPool | None:
        self._strike("get")
        return await super().get(name)

    async def list(self) -> list[AgentPool]:
        self._strike("list")
        return await super().list()

    def _strike(self, verb: str) -> None:
        if verb != self.verb or self.refusal is None or self.left == 0:
            return
        self.struck += 1
        if self.left is not None:
            self.left -= 1
        self.refuse[verb] = self.refusal
        try:
            self._called(verb, "")
        finally:
            del self.refuse[verb]


async def lived(life: Life, cloud: Faulty, *, times: int | None) -> None:
    """Up and down again, with the fault in force on the way; one that is not counted is healed after a while."""
    for reached, begins in ((lambda: life.ready, None), (lambda: life.machine is None, life.give_up)):
        if begins is not None:
            begins()
        if times is None:
            cloud.left = None
            await life.until(reached, seconds=OUTAGE)
            cloud.left = 0
        assert await life.until(reached), (life.machine, cloud.calls[-5:], life.pools.known(NAME))


@pytest.mark.parametrize("what", FAULTS)
async def test_every_fault_is_told_kept_cool_and_made_good(what: str, count_cases: Callable[[str, int], None]) -> None:
    refusal, reason = FAULTS[what]
    assert refusal.retry_after <= LONGEST_WAIT
    cases = list(itertools.product(REQUESTS, TIMES.values(), COMMITTED.values()))
    for verb, times, after_commit in cases:
        case = (what, verb, times, after_commit)
        cloud = Faulty(verb=verb, refusal=refusal, left=times, after_commit=after_commit)
        life = Life(cloud)
        await lived(life, cloud, times=times)
        assert cloud.pools == {}, case
        assert cloud.made == 1 or not after_commit, case
        assert life.hottest_minute() <= MOST_CALLS_A_MINUTE, case
        if verb == "create" and not after_commit:
            assert cloud.struck > 0, case
            assert reason in life.reasons, case
        if verb == "delete" and not after_commit and times is None:
            assert refusal.message in life.messages, case
    count_cases("provisioner faults", len(cases))


async def test_a_watch_that_lags_ten_minutes_behind_makes_no_second_pool() -> None:
    cloud = Faulty()
    life = Life(cloud)
    first, lag = life.machine, 60
    past = [first]
    for _ in range(3 * lag):
        true = life.machine
        life.machine = past[max(0, len(past) - lag)]
        life.due = life.now  # every round is a pass on what is long over
        await life.round()
        life.now += timedelta(seconds=10)
        past.append(life.machine or true)
    assert (cloud.made, list(cloud.pools)) == (1, [NAME])
