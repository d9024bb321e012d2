"""One Machine and its cloud, whose passes are made by hand on a clock of its own; nothing else has faults."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from kaito_operator.api.conditions import by_type
from kaito_operator.carry_out import in_cloud
from kaito_operator.gpu_provisioner.cloud import Cloud
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.observe import observe
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Finalizer, Key
from tests.support.machines import a_machine, a_node

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME = "ws0123456789"
LIMITS = Limits(gone=30, launch=1200, registration=900)
STEP, PATIENCE = 1.0, 15_000.0
"""Seconds between two rounds at least, and within which all is well again: the longest wait is an hour, thrice."""
OUTAGE = 300.0
"""Seconds that a fault lasts that is not counted but healed."""
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
    name: str = NAME
    now: datetime = NOON
    machine: dict[str, Any] | None = None
    reasons: set[str] = field(default_factory=set)
    messages: set[str] = field(default_factory=set)
    messages_of_the_end: set[str] = field(default_factory=set)
    """Those since somebody deleted it."""
    times: list[datetime] = field(default_factory=list)
    """When each call to the cloud was made."""
    version: int = 1
    asks: bool = False
    """Whether the last LIST, if it was due, was one."""

    def __post_init__(self) -> None:
        self.machine = a_machine(name=self.name, finalizer=True)
        self.pools = Pools(
            self.cloud, poll_seconds=20, most_pools=90, creates_per_10_minutes=100, clock=lambda: self.now
        )
        self.due = self.listed = NOON
        self._before = 0

    @property
    def ready(self) -> bool:
        """Whether the Machine says so."""
        return self.condition.get("status") == "True"

    @property
    def condition(self) -> dict[str, Any]:
        """Ready."""
        conditions = ((self.machine or {}).get("status") or {}).get("conditions") or ()
        return dict(by_type(conditions).get("Ready", {}))

    async def round(self) -> None:
        """The LIST and a pass, where they are due."""
        before = len(self.cloud.calls)
        mirror = self._mirror()
        changed = list[Key]()
        if self.now >= self.listed:
            self.listed = self.now + timedelta(seconds=await self.pools.follow_once(changed.append, mirror))
            self.asks = len(self.cloud.calls) > before
        if self.now >= self.due or changed:
            await self._pass(mirror)
        self.times += [self.now] * (len(self.cloud.calls) - before)

    async def _pass(self, mirror: Mirror) -> None:
        seen = observe(mirror, Key("", self.name), pools=self.pools)
        assert seen is not None
        todo = plan(seen, self.now, cluster="prod", limits=LIMITS)
        for step in todo.cloud:
            await in_cloud(step, self.pools)
        for applied in todo.apply:
            if applied.manifest["kind"] == "Machine":
                self._label(applied.manifest["metadata"]["labels"])
        for report in todo.report:
            assert self.machine is not None
            self.machine = {**self.machine, "status": report.status}
            self.reasons.add(self.condition["reason"])
            self.messages.add(self.condition["message"])
            if "deletionTimestamp" in self.machine["metadata"]:
                self.messages_of_the_end.add(self.condition["message"])
        if todo.finalizer is Finalizer.DROP and await self.pools.gone(self.name):
            self.machine = None
        wait = 0.0 if todo.writes else todo.look_again
        self.due = self.now + timedelta(seconds=300 if wait is None else wait)

    def _label(self, own: dict[str, str]) -> None:
        assert self.machine is not None
        meta = self.machine["metadata"]
        self.machine = {**self.machine, "metadata": {**meta, "labels": {**meta["labels"], **own}}}

    def _mirror(self) -> Mirror:
        assert self.machine is not None
        mirror = Mirror()
        self.version += 1
        meta = {**self.machine["metadata"], "resourceVersion": str(self.version)}
        mirror.put({**self.machine, "metadata": meta})
        if self.name in self.cloud.pools:
            node = a_node(pool=self.name, owner="machine-uid", labels=CLAIMED)
            node["spec"]["unschedulable"] = True
            mirror.put(node)
        return mirror

    async def until(self, reached: Callable[[], bool], *, seconds: float = PATIENCE) -> bool:
        """Rounds until that is so, or the time is up; whether it is. What nobody waits for takes no time."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end and not reached():
            await self.round()
            due = min(self.due, self.listed) if self.asks or self.listed <= self.now else self.due
            self.now = min(max(self.now + timedelta(seconds=STEP), due), end)
        return reached()

    def give_up(self) -> None:
        """Somebody deletes the Machine."""
        assert self.machine is not None
        meta = {**self.machine["metadata"], "deletionTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.machine = {**self.machine, "metadata": meta}
        self.due = self.now
        self._before, self.times = self.hottest_minute(), []

    def hottest_minute(self) -> int:
        """The most calls within any minute of the way up, or of the way down."""
        minute = timedelta(seconds=60)
        ahead = (bisect_left(self.times, t + minute) - first for first, t in enumerate(self.times))
        return max(self._before, *ahead, 0)
