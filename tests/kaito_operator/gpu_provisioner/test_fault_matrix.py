"""Every fault of the cloud at every class of request: told in the status, kept cool, and made good once healed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito_operator.api.conditions import by_type
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import LONGEST_WAIT, Refusal, classified
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.observe import observe
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.kube.errors import retry_after
from kaito_operator.mirror import Mirror
from kaito_operator.plan import CreateInCloud, Finalizer, Key
from tests.support.machines import a_machine, a_node
from tests.support.record_only import RecordOnlyCloud

pytestmark = [pytest.mark.faults, pytest.mark.money]

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME, KEY = "ws0123456789", Key("", "ws0123456789")
LIMITS = Limits(gone=30, launch=1200, registration=900)
STEP, PATIENCE = 10, 1500
"""Seconds a round, and rounds within which everything is well once more: the longest wait is an hour, thrice."""
OUTAGE = 60
"""Rounds that a fault lasts that is not counted but healed."""
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


@dataclass
class Life:
    """One Machine and its cloud, whose passes are made by hand; Kubernetes itself is without fault here."""

    cloud: Faulty
    now: datetime = NOON
    machine: dict[str, Any] | None = field(default_factory=lambda: a_machine(finalizer=True))
    reasons: set[str] = field(default_factory=set)
    messages: set[str] = field(default_factory=set)
    times: list[datetime] = field(default_factory=list)
    """When each call to the cloud was made."""
    version: int = 1

    def __post_init__(self) -> None:
        self.pools = Pools(
            self.cloud, poll_seconds=20, most_pools=90, creates_per_10_minutes=100, clock=lambda: self.now
        )
        self.due = self.listed = NOON

    @property
    def ready(self) -> bool:
        return self._condition().get("status") == "True"

    def _condition(self) -> dict[str, Any]:
        conditions = ((self.machine or {}).get("status") or {}).get("conditions") or ()
        return dict(by_type(conditions).get("Ready", {}))

    async def round(self) -> None:
        """Ten seconds: the LIST and a pass, where they are due."""
        before = len(self.cloud.calls)
        mirror = self._mirror()
        changed = list[Key]()
        if self.now >= self.listed:
            self.listed = self.now + timedelta(seconds=await self.pools.follow_once(changed.append, mirror))
        if self.now >= self.due or changed:
            await self._pass(mirror)
        self.times += [self.now] * (len(self.cloud.calls) - before)
        self.now += timedelta(seconds=STEP)

    async def _pass(self, mirror: Mirror) -> None:
        seen = observe(mirror, KEY, pools=self.pools)
        assert seen is not None
        todo = plan(seen, self.now, cluster="prod", limits=LIMITS)
        for step in todo.cloud:
            await (self.pools.create(step) if isinstance(step, CreateInCloud) else self.pools.delete(step))
        for report in todo.report:
            assert self.machine is not None
            self.machine = {**self.machine, "status": report.status}
            self.reasons.add(self._condition()["reason"])
            self.messages.add(self._condition()["message"])
        if todo.finalizer is Finalizer.DROP and await self.pools.gone(NAME):
            self.machine = None
        wait = 0.0 if todo.writes else todo.look_again
        self.due = self.now + timedelta(seconds=300 if wait is None else wait)

    def _mirror(self) -> Mirror:
        assert self.machine is not None
        mirror = Mirror()
        self.version += 1
        meta = {**self.machine["metadata"], "resourceVersion": str(self.version)}
        mirror.put({**self.machine, "metadata": meta})
        if NAME in self.cloud.pools:
            node = a_node(owner="machine-uid", labels=CLAIMED)
            node["spec"]["unschedulable"] = True
            mirror.put(node)
        return mirror

    async def until(self, reached: Callable[[], bool], *, rounds: int = PATIENCE) -> bool:
        for _ in range(rounds):
            if reached():
                return True
            await self.round()
        return reached()

    def give_up(self) -> None:
        assert self.machine is not None
        meta = {**self.machine["metadata"], "deletionTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.machine = {**self.machine, "metadata": meta}
        self.due = self.now

    def hottest_minute(self) -> int:
        """The most calls within any minute."""
        minute = timedelta(seconds=60)
        return max((sum(t <= other < t + minute for other in self.times) for t in self.times), default=0)


CLAIMED = {
    "karpenter.sh/registered": "true",
    "karpenter.sh/initialized": "true",
    "node.kubernetes.io/exclude-from-external-load-balancers": "karpenter",
}


async def lived(life: Life, *, times: int | None) -> None:
    """Up and down again, with the fault in force on the way; one that is not counted is healed after a while."""
    for reached, begins in ((lambda: life.ready, None), (lambda: life.machine is None, life.give_up)):
        if begins is not None:
            begins()
        if times is None:
            life.cloud.left = None
            await life.until(reached, rounds=OUTAGE)
            life.cloud.left = 0
        assert await life.until(reached), (life.machine, life.cloud.calls[-5:], life.pools.known(NAME))


@pytest.mark.parametrize("what", FAULTS)
async def test_every_fault_is_told_kept_cool_and_made_good(what: str, count_cases: Callable[[str, int], None]) -> None:
    refusal, reason = FAULTS[what]
    assert refusal.retry_after <= LONGEST_WAIT
    cases = list(itertools.product(REQUESTS, TIMES.values(), COMMITTED.values()))
    for verb, times, after_commit in cases:
        case = (what, verb, times, after_commit)
        cloud = Faulty(verb=verb, refusal=refusal, left=times, after_commit=after_commit)
        life = Life(cloud)
        await lived(life, times=times)
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
    life = Life(Faulty())
    first, lag = life.machine, 600 // STEP
    past = [first]
    for _ in range(3 * lag):
        true = life.machine
        life.machine = past[max(0, len(past) - lag)]
        life.due = life.now  # every round is a pass on what is long over
        await life.round()
        past.append(life.machine or true)
    assert (life.cloud.made, list(life.cloud.pools)) == (1, [NAME])
