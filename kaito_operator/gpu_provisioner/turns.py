"""A cloud that is not asked more often than it answers: whoever is too much gets a turn, and comes back for it.

AKS takes 60 requests about agent pools at once and one a second after that, from a whole subscription; PUTs have
buckets of their own ("Throttling limits on AKS resource provider APIs"). A 429 foreseen costs no request.
"""

import builtins
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from kaito_operator.clock import Clock, system_clock
from kaito_operator.gpu_provisioner.cloud import AgentPool, Cloud, CloudError
from kaito_operator.gpu_provisioner.errors import QUEUED, THROTTLED, Refusal

RESERVE = 5
"""Requests that are kept for the LIST, which serves all."""
MISSED = timedelta(minutes=1)
"""A turn that nobody came for is forgotten after that long; its request was not sent."""


class Bucket:
    """A token bucket whose tokens are given away ahead of time."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._full_at: datetime | None = None
        """When it would be full again if nobody took any more."""

    def take(self, now: datetime, *, keep: float = 0) -> datetime:
        """Takes a token, and says from when on it is good: now, if ``keep`` and more are left."""
        begun = now if self._full_at is None else max(self._full_at, now)
        self._full_at = begun + timedelta(seconds=1 / self._per_second)
        early = timedelta(seconds=(self._burst - keep) / self._per_second)
        return max(now, self._full_at - early)

    def is_empty(self, now: datetime) -> None:
        """Somebody else has emptied it."""
        empty = now + timedelta(seconds=self._burst / self._per_second)
        self._full_at = empty if self._full_at is None else max(self._full_at, empty)


class InTurn:
    """The same cloud."""

    def __init__(self, cloud: Cloud, *, burst: int, per_second: float, clock: Clock = system_clock) -> None:
        self._cloud, self._clock = cloud, clock
        self._bucket, self._keep = Bucket(burst, per_second), min(RESERVE, burst - 1)
        self._turns: dict[tuple[str, str], datetime] = {}
        """Verb and name → from when on it is their turn."""

    async def identify(self) -> None:
        """No request to the agent pools."""
        await self._cloud.identify()

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        """PUTs are counted for each pool, and there is one."""
        return await self._cloud.create(name, wanted)

    async def delete(self, name: str, *, etag: str) -> None:
        """In turn."""
        self._wait("delete", name)
        try:
            await self._cloud.delete(name, etag=etag)
        except CloudError as error:
            raise self._learned(error) from error

    async def abort(self, name: str) -> None:
        """In turn."""
        self._wait("abort", name)
        await self._cloud.abort(name)

    async def get(self, name: str) -> AgentPool | None:
        """In turn."""
        self._wait("get", name)
        try:
            return await self._cloud.get(name)
        except CloudError as error:
            raise self._learned(error) from error

    async def list(self) -> "builtins.list[AgentPool]":
        """At once: there are few, and each spares many others."""
        self._bucket.take(self._clock())
        try:
            return await self._cloud.list()
        except CloudError as error:
            raise self._learned(error) from error

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        """Other buckets, hardly drawn from."""
        return await self._cloud.outlook(wanted)

    async def close(self) -> None:
        """As it is."""
        await self._cloud.close()

    def _wait(self, verb: str, name: str) -> None:
        """Returns on their turn; else says when that is."""
        now = self._clock()
        self._turns = {who: at for who, at in self._turns.items() if at > now - MISSED}
        at = self._turns.pop((verb, name), None) or self._bucket.take(now, keep=self._keep)
        if at > now:
            self._turns[verb, name] = at
            raise CloudError(Refusal(QUEUED.reason, QUEUED.todo, (at - now).total_seconds()))

    def _learned(self, error: CloudError) -> CloudError:
        """The bucket is the subscription's: others draw from it too."""
        if error.refusal.reason == THROTTLED.reason:
            self._bucket.is_empty(self._clock())
        return error
