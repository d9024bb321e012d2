"""One pass for one key: observe → plan → carry out; and the resync that repairs what a lost event broke."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry

from kaito_operator.admission import Door
from kaito_operator.api.kinds import Kind
from kaito_operator.carry_out import CloudDoor, carry_out
from kaito_operator.clock import Clock, system_clock
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import KubeError, NotFound, TooManyRequests, Unavailable
from kaito_operator.metrics import Metrics
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest, Plan, Ref, Selection
from kaito_operator.second_look import Stale
from kaito_operator.workqueue import Retry, WorkQueue

log = logging.getLogger(__name__)

Seen = TypeVar("Seen")
FIRST_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
LOOK_FOR_KIND = 10.0
"""Seconds between looks for a kind that the cluster does not know yet."""
RESTLESS = 5
"""Passes of one key that may write in a row before the next one is held back."""
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
    mistakes: Callable[[Manifest], str] | None = None
    """What admission tells the user of a parent that is mistaken; "" if it is not."""
    door: Door | None = None
    """Where admission is answered, if it is."""
    cloud: CloudDoor | None = None
    reads: Callable[[Mirror, Key], Iterable[Ref | Selection]] | None = None
    """What nobody watches and a pass for a key needs: read live before it."""
    background: tuple[Callable[[Callable[[Key], None], Mirror], Awaitable[None]], ...] = ()
    """Runs beside the passes; gets the queue's add and the mirror."""
    sweeps: tuple[Callable[[Kube, Mirror], Awaitable[None]], ...] = ()
    """Runs beside the passes too, and has the live cluster to look at."""
    from_the_start: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    """Runs whether or not this process leads."""
    unready: Callable[[], str | None] = lambda: None
    """What keeps the process from being ready, besides the first LIST."""
    registry: CollectorRegistry | None = None
    """Where metrics of its own are."""
    done: Callable[[Seen, Plan, datetime], None] = lambda *_: None
    """Is told of each plan that was carried out whole."""
    requested: Callable[[str, str, int], None] = lambda *_: None
    """Is told of each request to the API server: method, resource and status."""


class KindAppeared(Exception):
    """A kind was installed after our start. kopf scans for kinds once, so only a new process can watch it."""


class Reconciler(Generic[Seen]):
    """The loop of one controller. ``observe`` keeps the mirror true, ``work`` writes; only the leader works."""

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
        self._listed = asyncio.Event()
        self._unknown: set[Kind] = set()
        self._restless: dict[Key, int] = {}
        self.listed_at: float | None = None
        """When the last full LIST succeeded, on the monotonic clock; None before the first."""

    def saw(self, manifest: Manifest, *, gone: bool) -> None:
        """A watch event: into the mirror, and whom it concerns, or did before, into the queue."""
        before = self._concerned(self.mirror.last(manifest), manifest)
        if self.mirror.remove(manifest) if gone else self.mirror.put(manifest):
            for key in before | self._concerned(manifest):
                self._queue.add(key)

    def _concerned(self, *manifests: Manifest | None) -> set[Key]:
        return {key for each in manifests if each is not None for key in self.controller.concerns(each, self.mirror)}

    async def observe(self) -> None:
        """LISTs, then LISTs again every now and then, until cancelled."""
        await self._first_resync()
        self._listed.set()
        await self._resync_for_ever()

    async def work(self) -> None:
        """Makes passes until cancelled, from the first LIST on: nothing is decided on an empty mirror.

        Ends with an error if any part of it does.
        """
        await self._listed.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            for background in self.controller.background:
                group.create_task(_coroutine(background(self._queue.add, self.mirror)))
            for sweep in self.controller.sweeps:
                group.create_task(_coroutine(sweep(self._kube, self.mirror)))

    async def resync(self) -> None:
        """LISTs every watched kind, mends the mirror, and asks for every parent and whomever a difference concerns."""
        for watch in self.controller.watches:
            await self._resync_kind(watch)
        self.mirror.forget_refusals()
        self.listed_at = time.monotonic()
        for parent in self.mirror.all(self.controller.parent):
            self._queue.add(Key(parent["metadata"].get("namespace", ""), parent["metadata"]["name"]))

    async def _resync_kind(self, watch: Watch) -> None:
        kind = watch.kind
        try:
            listed = await self._kube.list(kind, labels=watch.selector)
        except NotFound:
            if kind not in self._unknown:
                log.warning("the cluster does not know %s of %s", kind.plural, kind.api_version)
            self._unknown.add(kind)
            self.mirror.lack(kind)
            return
        if kind in self._unknown:
            raise KindAppeared(f"the cluster knows {kind.plural} of {kind.api_version} by now; starting again for them")
        for different in self.mirror.replace(kind, listed.items, resource_version=listed.resource_version):
            for key in self._concerned(different):
                self._queue.add(key)

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Answers in how many seconds to look again; raises Retry for what may be better next time."""
        with self._metrics.reconcile() as outcome:
            await self._read(key)
            seen = self.controller.observe(self.mirror, key)
            if seen is None:
                self._restless.pop(key, None)
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
            self.controller.done(seen, todo, self._clock())
            return self._next_look(key, todo)

    async def _read(self, key: Key) -> None:
        """What the parent names and nobody watches. What is not there is not kept."""
        if self.controller.reads is None:
            return
        found = []
        for ref in self.controller.reads(self.mirror, key):
            try:
                if isinstance(ref, Ref):
                    found.append(await self._kube.get(ref))
                else:
                    found += (await self._kube.select(ref)).items
            except NotFound:
                continue
            except KubeError as refused:
                raise Retry(str(refused), after=min(refused.retry_after or 0.0, LONGEST_WAIT)) from refused
        self.mirror.keep(key, tuple(found))

    def _next_look(self, key: Key, todo: Plan) -> float | None:
        """After a pass that wrote at once: our own writes come back as events that are no news to the mirror.

        A key that finds no rest (somebody undoes what we do, or a bug) is held back, more each time.
        """
        if not todo.writes:
            self._restless.pop(key, None)
            return todo.look_again
        passes = self._restless[key] = self._restless.get(key, 0) + 1
        if passes <= RESTLESS:
            return 0.0
        if passes == RESTLESS + 1:
            log.warning("%s: no rest after %d passes that wrote", "/".join(filter(None, key)), passes)
        return min(0.2 * 2.0 ** min(passes - RESTLESS, 20), LONGEST_WAIT)

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
            seconds = self._resync_seconds * random.uniform(0.9, 1.1)
            try:
                await (self._look_for_kinds(seconds) if self._unknown else asyncio.sleep(seconds))
                await self.resync()
            except KubeError as refused:
                log.warning("resync: %s; again in a while", refused)

    async def _look_for_kinds(self, seconds: float) -> None:
        """Waits for so long, and looks now and then for the kinds that are not there. Raises KindAppeared."""
        for _ in range(max(1, round(seconds / LOOK_FOR_KIND))):
            await asyncio.sleep(min(seconds, LOOK_FOR_KIND))
            for watch in self.controller.watches:
                if watch.kind in self._unknown:
                    await self._resync_kind(watch)


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
