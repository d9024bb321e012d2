"""Every fault of the cloud at every class of request: told in the status, kept cool, and made good once healed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from kaito_operator.carry_out import in_cloud
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import LONGEST_WAIT, Refusal, classified
from kaito_operator.gpu_provisioner.observe import observe
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.kube.errors import retry_after
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest
from tests.support.machine_life import LIMITS, NAME, NOON, OUTAGE, Life
from tests.support.machines import a_machine
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


@dataclass
class Stuck(RecordOnlyCloud):
    """Nothing comes to an end: what is deleted stays Deleting."""

    leaves: bool = False

    async def delete(self, name: str, *, etag: str) -> None:
        if self.leaves:
            return await super().delete(name, etag=etag)
        self._called("delete", name)
        if self.pools[name].state != "Deleting":
            self.pools[name] = replace(self.pools[name], state="Deleting", etag="d")
        return None


NO_WAY: dict[str, Refusal] = {
    "quota": fault(409, FULL),
    "another operation": fault(409, BUSY),
    "throttled": fault(429, said("Throttled"), after="1"),
    "no role": fault(403, said("AuthorizationFailed")),
    "no answer": fault(503, after="0"),
    "changed": fault(412, said("PreconditionFailed")),
}


@pytest.mark.parametrize("why", NO_WAY)
@pytest.mark.parametrize("verb", ["create", "delete", "get", "list"])
async def test_a_machine_that_azure_refuses_for_hours_costs_twelve_calls_a_minute_at_most(why: str, verb: str) -> None:
    cloud = Stuck(becomes="Creating" if verb == "list" else "Succeeded", leaves=True)
    life = Life(cloud)
    if verb == "delete":
        await life.until(lambda: life.ready)
        life.give_up()
    cloud.refuse[verb] = NO_WAY[why]
    await life.until(lambda: False, seconds=3 * 3600)
    assert 0 < life.hottest_minute() <= MOST_CALLS_A_MINUTE
    assert life.machine is not None
    assert life.ready == (verb == "list")  # it is known by name, and its node says the rest


@pytest.mark.parametrize("state", ["Creating", "Deleting"])
async def test_a_machine_whose_pool_comes_to_no_end_costs_twelve_calls_a_minute_at_most(state: str) -> None:
    cloud = Stuck(becomes="Creating" if state == "Creating" else "Succeeded")
    life = Life(cloud)
    if state == "Deleting":
        await life.until(lambda: life.ready)
        life.give_up()
    await life.until(lambda: False, seconds=1000)
    assert cloud.pools[NAME].state == state
    assert 0 < life.hottest_minute() <= MOST_CALLS_A_MINUTE


@pytest.mark.parametrize("count", [1, 5])
async def test_a_watch_that_lags_ten_minutes_behind_makes_as_many_pools_as_machines(count: int) -> None:
    cloud, now = Faulty(), NOON
    pools = Pools(cloud, poll_seconds=20, most_pools=90, creates_per_10_minutes=100, clock=lambda: now)
    names = [f"ws{number}" for number in range(count)]
    true = {name: a_machine(name=name, uid=f"uid-{name}", finalizer=True) for name in names}
    past = [dict(true)]
    for version in range(1, 181):
        mirror = Mirror()
        for machine in past[max(0, len(past) - 60)].values():  # ten seconds a round
            mirror.put({**machine, "metadata": {**machine["metadata"], "resourceVersion": str(version)}})
        await pools.follow_once(lambda _: None, mirror)
        for name in names:
            true[name] = await planned_and_asked_for(name, true[name], mirror, pools, now)
        past.append(dict(true))
        now += timedelta(seconds=10)
    assert (cloud.made, sorted(cloud.pools)) == (count, names)


async def planned_and_asked_for(
    name: str, machine: Manifest, mirror: Mirror, pools: Pools, now: datetime
) -> dict[str, Any]:
    """The Machine after a pass on what is seen of it."""
    seen = observe(mirror, Key("", name), pools=pools)
    assert seen is not None
    todo = plan(seen, now, cluster="prod", limits=replace(LIMITS, registration=99_999.0))
    for step in todo.cloud:
        await in_cloud(step, pools)
    return {**machine, **({"status": todo.report[0].status} if todo.report else {})}
