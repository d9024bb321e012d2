"""What is known of the agent pools, and the only way to write them: each write looks at the live pool first.

Known are: the pools of the last LIST and of every answer since, refusals with the time until which asking again is
useless, and since when a name has been absent. All of it may be lost at any time: what a restart forgets is asked anew.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito_operator.api.conditions import by_type
from kaito_operator.api.kinds import MACHINE
from kaito_operator.clock import Clock, system_clock
from kaito_operator.gpu_provisioner.cloud import AgentPool, Cloud, CloudError
from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.mirror import Mirror
from kaito_operator.plan import CreateInCloud, DeleteInCloud, Key, Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """The cloud's last no for a name, and until when it holds."""

    refusal: Refusal
    until: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one name."""

    pool: AgentPool | None = None
    absent_since: datetime | None = None
    """When the cloud first answered that there is no such pool, with no other answer since."""
    refused: Refused | None = None


class Pools:
    """The CloudDoor of gpu-provisioner."""

    def __init__(
        self,
        cloud: Cloud,
        *,
        poll_seconds: float,
        most_pools: int,
        creates_per_10_minutes: int,
        clock: Clock = system_clock,
    ) -> None:
        self._cloud, self._poll_seconds, self._clock = cloud, poll_seconds, clock
        self._most_pools, self._most_creates = most_pools, creates_per_10_minutes
        self._known: dict[str, Known] = {}
        self._creates: deque[datetime] = deque()

    def known(self, name: str) -> Known:
        """What is known of a name."""
        return self._known.get(name, Known())

    async def create(self, step: CreateInCloud) -> None:
        """Second look, then a conditional PUT. An existing pool of the same owner is adopted."""
        live = await self._look(step.name)
        if live is not None:
            if not _owned(live, step.wanted["properties"]["tags"]):
                self._refuse(step.name, Refusal("NameTaken", f"agent pool {step.name} belongs to somebody else", 300.0))
            return
        if (full := self._at_the_cap()) is not None:
            self._refuse(step.name, full)
            return
        try:
            self._creates.append(self._clock())
            self._see(await self._cloud.create(step.name, step.wanted))
        except CloudError as error:
            self._refuse(step.name, error.refusal)

    async def delete(self, step: DeleteInCloud) -> None:
        """Second look, then a conditional DELETE, by name, of nothing but our own."""
        live = await self._look(step.name)
        if live is None or live.state == "Deleting":
            return
        if not _owned(live, step.owner):
            self._refuse(step.name, Refusal("NameTaken", f"agent pool {step.name} belongs to somebody else", 300.0))
            return
        try:
            await self._cloud.delete(step.name, etag=live.etag)
        except CloudError as error:
            self._refuse(step.name, error.refusal)
            return
        await self._look(step.name)

    async def gone(self, name: str) -> bool:
        """Whether the cloud answers, now, that there is no such pool."""
        return await self._look(name) is None and self.known(name).absent_since is not None

    async def follow(self, add: Callable[[Key], None], mirror: Mirror) -> None:
        """While anything is in flight, one LIST for all of it; what it changed is looked at. Runs for ever."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            machines = mirror.all(MACHINE)
            self._forget_all_but({machine["metadata"]["name"] for machine in machines})
            if flying := sorted(machine["metadata"]["name"] for machine in machines if in_flight(machine)):
                for name in await self._listed(flying):
                    add(Key("", name))

    def _forget_all_but(self, names: set[str]) -> None:
        for name in self._known.keys() - names:
            del self._known[name]

    async def _listed(self, flying: list[str]) -> list[str]:
        """The names in flight whose state the LIST changed."""
        try:
            pools = {pool.name: pool for pool in await self._cloud.list()}
        except CloudError as error:
            log.warning("the agent pools cannot be listed: %s", error.refusal.message)
            return []
        changed = []
        for name in flying:
            before = self._known.get(name)
            if name in pools:
                self._see(pools[name])
            elif before is not None and before.pool is not None:
                self._absent(name)
            if self._known.get(name) != before:
                changed.append(name)
        return changed

    async def _look(self, name: str) -> AgentPool | None:
        """The live pool. What cannot be read is a refusal, and raised: nothing is decided on it."""
        try:
            live = await self._cloud.get(name)
        except CloudError as error:
            self._refuse(name, error.refusal)
            raise
        if live is None:
            self._absent(name)
        else:
            self._see(live)
        return live

    def _see(self, pool: AgentPool) -> None:
        self._known[pool.name] = Known(pool=pool)

    def _absent(self, name: str) -> None:
        before = self.known(name)
        self._known[name] = Known(absent_since=before.absent_since or self._clock(), refused=before.refused)

    def _refuse(self, name: str, refusal: Refusal) -> None:
        before = self.known(name)
        until = self._clock() + timedelta(seconds=refusal.retry_after)
        self._known[name] = Known(before.pool, before.absent_since, Refused(refusal, until))

    def _at_the_cap(self) -> Refusal | None:
        """M9: so many pools, so many creates in ten minutes, whatever anybody asks for."""
        since = self._clock() - timedelta(minutes=10)
        while self._creates and self._creates[0] < since:
            self._creates.popleft()
        if len(self._creates) >= self._most_creates:
            return Refusal("CreateLimit", f"{self._most_creates} pools were asked for in ten minutes; waiting", 60.0)
        if sum(known.pool is not None for known in self._known.values()) >= self._most_pools:
            return Refusal("PoolLimit", f"there are {self._most_pools} agent pools of ours already", 60.0)
        return None


def in_flight(machine: Manifest) -> bool:
    """Whether a Machine is on its way up or down, so that its pool has to be followed."""
    ready = by_type((machine.get("status") or {}).get("conditions") or ()).get("Ready", {})
    return ready.get("status") != "True" or "deletionTimestamp" in machine["metadata"]


def _owned(pool: AgentPool, owner: object) -> bool:
    """Whether the pool carries every tag of the owner."""
    return isinstance(owner, dict) and bool(owner) and all(pool.tags.get(key) == value for key, value in owner.items())
