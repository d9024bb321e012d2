"""One pass for one key: observe → plan → carry out; and the resync that repairs what a lost event broke."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from kaito_operator.api.kinds import Kind
from kaito_operator.carry_out import CloudDoor, Stale, carry_out
from kaito_operator.clock import Clock, system_clock
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import KubeError, NotFound, TooManyRequests, Unavailable
from kaito_operator.metrics import Metrics
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest, Plan
from kaito_operator.workqueue import Retry, WorkQueue

log = logging.getLogger(__name__)

Seen = TypeVar("Seen")
FIRST_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
LONGEST_WAIT = 300.0
"""Seconds; a server may ask for any Retry-After, and gets this much at most."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A kind to watch, by labels that the API server selects; None means: the label is there."""

    kind: Kind
    labels: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def selector(self) -> str:
        """The labels as a LIST takes them."""
        return ",".join(name if value is None else f"{name}={value}" for name, value in sorted(self.labels.items()))


@dataclass(frozen=True, slots=True)
class Controller(Generic[Seen]):
    """All that makes one controller different from the other."""

    name: str
    field_manager: str
    """Whose fields the applies are; no two controllers may share one."""
    parent: Kind
    watches: tuple[Watch, ...]
    """The parent among them."""
    concerns: Callable[[Manifest, Mirror], Iterable[Key]]
    """Which parents an object concerns."""
    observe: Callable[[Mirror, Key], Seen | None]
    plan: Callable[[Seen, datetime], Plan]
    cloud: CloudDoor | None = None
    background: tuple[Callable[[Callable[[Key], None], Mirror], Awaitable[None]], ...] = ()
    """Runs beside the passes; gets the queue's add and the mirror."""


class Reconciler(Generic[Seen]):
    """The loop of one controller."""

    def __init__(
        self,
        controller: Controller[Seen],
        kube: Kube,
        *,
        metrics: Metrics,
        workers: int = 8,
        resync_seconds: float = 300.0,
        clock: Clock = system_clock,
    ) -> None:
        self.controller, self.mirror = controller, Mirror()
        self._kube, self._metrics, self._clock, self._resync_seconds = kube, metrics, clock, resync_seconds
        self._queue = WorkQueue(self.reconcile, workers=workers, watched=metrics)
        self.listed_at: float | None = None
        """When the last full LIST succeeded, on the monotonic clock; None before the first."""

    def saw(self, manifest: Manifest, *, gone: bool) -> None:
        """A watch event: into the mirror, and whom it concerns into the queue."""
        before = set(self.controller.concerns(manifest, self.mirror))
        news = self.mirror.remove(manifest) if gone else self.mirror.put(manifest)
        if news:
            for key in before | set(self.controller.concerns(manifest, self.mirror)):
                self._queue.add(key)

    async def run(self) -> None:
        """Works until cancelled; ends with an error if any part of the loop does."""
        await self._first_resync()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._resync_for_ever())
            for background in self.controller.background:
                group.create_task(_coroutine(background(self._queue.add, self.mirror)))

    async def resync(self) -> None:
        """LISTs every watched kind, mends the mirror, and asks for every parent and whomever a difference concerns."""
        for watch in self.controller.watches:
            try:
                listed = await self._kube.list(watch.kind, labels=watch.selector)
            except NotFound:
                log.warning("the cluster does not know %s of %s", watch.kind.plural, watch.kind.api_version)
                continue
            for different in self.mirror.replace(watch.kind, listed.items, resource_version=listed.resource_version):
                for key in self.controller.concerns(different, self.mirror):
                    self._queue.add(key)
        self.listed_at = time.monotonic()
        for parent in self.mirror.all(self.controller.parent):
            self._queue.add(Key(parent["metadata"].get("namespace", ""), parent["metadata"]["name"]))

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Answers in how many seconds to look again; raises Retry for what may be better next time."""
        with self._metrics.reconcile() as outcome:
            seen = self.controller.observe(self.mirror, key)
            if seen is None:
                return None
            todo = self.controller.plan(seen, self._clock())
            if todo.writes:
                log.info("%s: %s", "/".join(filter(None, key)), todo.summary())
            try:
                await carry_out(
                    todo, kube=self._kube, mirror=self.mirror, cloud=self.controller.cloud, clock=self._clock
                )
            except Stale as stale:
                outcome("requeue")
                raise Retry(str(stale)) from stale
            except KubeError as refused:
                outcome("error")
                raise Retry(str(refused), after=min(refused.retry_after or 0.0, LONGEST_WAIT)) from refused
            outcome("success" if todo.look_again is None else "requeue_after")
            # Our own writes come back as events that are no news to the mirror, so what they change is looked at here.
            return 0.0 if todo.writes else todo.look_again

    async def _first_resync(self) -> None:
        """The LIST before the first pass. A server that has just started may need a moment; more than that ends us."""
        for pause in FIRST_PAUSES:
            try:
                await self.resync()
            except (TooManyRequests, Unavailable) as refused:
                log.warning("first LIST: %s; again in %.1f s", refused, pause)
                await asyncio.sleep(pause)
            else:
                return
        await self.resync()

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._resync_seconds * random.uniform(0.9, 1.1))
            try:
                await self.resync()
            except KubeError as refused:
                log.warning("resync: %s; again in a while", refused)


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
