"""Looks at live pools: by name while they are few, by one LIST for all when many are wanted at once."""

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta

from kaito_operator.clock import Clock
from kaito_operator.gpu_provisioner.cloud import AgentPool, Cloud

FEW = 3
"""So many are asked after by name: what holds for one pool is asked of that pool."""
WHILE = timedelta(seconds=10)
"""Looks that lie no further apart belong together."""
FRESH = timedelta(seconds=5)
"""How old a LIST may be that stands for a look. What is written on its word is conditional: If-None-Match, If-Match."""


class Looks:
    """Everybody's looks at one cluster, so that they can be shared."""

    def __init__(self, cloud: Cloud, *, clock: Clock) -> None:
        self._cloud, self._clock = cloud, clock
        self._wanted: deque[datetime] = deque()
        self._listed: tuple[datetime, Mapping[str, AgentPool]] | None = None
        self._listing: asyncio.Task[Mapping[str, AgentPool]] | None = None

    async def by_name(self, name: str) -> AgentPool | None:
        """The pool as it is now; None if the cloud answers 404. Raises CloudError."""
        return await self._cloud.get(name)

    async def every(self) -> Mapping[str, AgentPool]:
        """All pools as they are now. A LIST may lag behind: what it does not show may yet be there."""
        now = self._clock()
        pools = {pool.name: pool for pool in await self._cloud.list()}
        self._listed = (now, pools)
        return pools

    def are_many(self) -> bool:
        """Counts one more look, and says whether so many are wanted that they had better be shared."""
        now = self._clock()
        while self._wanted and now - self._wanted[0] > WHILE:
            self._wanted.popleft()
        self._wanted.append(now)
        return len(self._wanted) > FEW

    async def shared(self) -> Mapping[str, AgentPool]:
        """All pools as they were just now; those who ask while a LIST is under way get the same.

        For writes that hold on a condition, and for nothing else.
        """
        if self._listed is not None and self._clock() - self._listed[0] <= FRESH:
            return self._listed[1]
        if self._listing is None:
            self._listing = asyncio.create_task(self.every())
            self._listing.add_done_callback(self._is_over)
        return await asyncio.shield(self._listing)

    def _is_over(self, _: object) -> None:
        self._listing = None
