"""One Machine and its cloud, whose passes are made by hand on a clock of its own; nothing else has faults."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from kaito_operator.api.conditions import by_type
from kaito_operator.gpu_provisioner.cloud import Cloud
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.observe import observe
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.mirror import Mirror
from kaito_operator.plan import CreateInCloud, Finalizer, Key
from tests.support.machines import a_machine, a_node

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME, KEY = "ws0123456789", Key("", "ws0123456789")
LIMITS = Limits(gone=30, launch=1200, registration=900)
STEP, PATIENCE = 10, 1500
"""Seconds a round, and rounds within which everything is well once more: the longest wait is an hour, thrice."""
OUTAGE = 60
"""Rounds that a fault lasts that is not counted but healed."""
CLAIMED = {
    "karpenter.sh/registered": "true",
    "karpenter.sh/initialized": "true",
    "node.kubernetes.io/exclude-from-external-load-balancers": "karpenter",
}


class WatchedCloud(Cloud, Protocol):
    """A cloud that a test looks into."""

    @property
    def calls(self) -> Sequence[Any]:
        """Every call so far."""

    @property
    def pools(self) -> Any:
        """What there is, by name."""


@dataclass
class Life:
    """From the wish for a Machine to its end."""

    cloud: WatchedCloud
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
        """Whether the Machine says so."""
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
        """Rounds until that is so, or there are no more; whether it is."""
        for _ in range(rounds):
            if reached():
                return True
            await self.round()
        return reached()

    def give_up(self) -> None:
        """Somebody deletes the Machine."""
        assert self.machine is not None
        meta = {**self.machine["metadata"], "deletionTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.machine = {**self.machine, "metadata": meta}
        self.due = self.now

    def hottest_minute(self) -> int:
        """The most calls within any minute."""
        minute = timedelta(seconds=60)
        return max((sum(t <= other < t + minute for other in self.times) for t in self.times), default=0)
