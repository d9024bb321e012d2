"""One writer at a time: a Lease (coordination.k8s.io/v1). A process without it observes and does not write.

Times are measured on the monotonic clock from the moment the renewal was *sent*, so a slow answer never lengthens our
own term. Whoever cannot renew in time ends at once, from a thread that a stuck event loop cannot hold up.
"""

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kaito_operator.api.kinds import LEASE
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Conflict, KubeError, NotFound
from kaito_operator.plan import Manifest, Ref

log = logging.getLogger(__name__)


PERIODS = 7.5
"""Renewals in one duration of the Lease: every 2 s of 15."""
PATIENCE = 1 / 3
"""The part of the duration that one renewal may take, so that there is time for another."""
DEADLINE = 2 / 3
"""The part of the duration after which we hold ourselves no longer for the leader: 10 s of 15."""


def end_process() -> None:
    """Ends this process at once, whatever its other threads do."""
    os._exit(1)


class Leader:
    """Our term of office, or the wait for it.

    ``host`` is told in the holder's name, with a part that no other process has. ``only_here`` says that no two
    processes of this host name live at the same time, as is true of the one container in a pod of a Deployment: then
    a Lease of that host is that of our predecessor, who crashed, and is taken over at once. ``end`` is called from
    another thread when the term is over before it was given back.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        name: str,
        namespace: str,
        host: str,
        seconds: float,
        only_here: bool = False,
        end: Callable[[], None] = end_process,
    ) -> None:
        self._kube, self._host, self._seconds, self._only_here = kube, host, seconds, only_here
        self._end = end
        self._identity = f"{host}_{uuid.uuid4().hex[:8]}"
        self._ref = Ref(LEASE.api_version, LEASE.kind, name, namespace)
        self._valid_until = 0.0
        self._lease: Manifest | None = None
        self._seen: tuple[str, float] = ("", 0.0)

    @property
    def leads(self) -> bool:
        """Whether our term still runs."""
        return _now() < self._valid_until

    @asynccontextmanager
    async def term(self) -> AsyncIterator[None]:
        """Waits for the Lease, renews it while the context is open, gives it back at the end."""
        while not await self._tried():  # noqa: ASYNC110  (the event awaited is in the API server)
            await asyncio.sleep(self._seconds / PERIODS)
        log.info("leading as %s", self._identity)
        watchdog = threading.Event()
        threading.Thread(target=self._end_when_over, args=(watchdog,), daemon=True).start()
        renewing = asyncio.create_task(self._renew_for_ever())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            watchdog.set()
            await self._give_back()

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / PERIODS)
            await self._tried()

    def _end_when_over(self, done: threading.Event) -> None:
        """Ends the process when the term is over: what is under way must not write on another's watch."""
        while not done.wait(0.5):
            if not self.leads:
                log.critical("the Lease could not be renewed; ending")
                self._end()
                return

    async def _tried(self) -> bool:
        """One try to take or renew the Lease."""
        sent = _now()
        try:
            async with asyncio.timeout(self._seconds * PATIENCE):
                self._lease = await self._take()
        except (Conflict, NotFound):
            self._lease = None  # somebody wrote or removed it: read it anew next time
            return self.leads
        except (KubeError, TimeoutError) as refused:
            log.warning("Lease %s: %s", self._ref.name, refused or "no answer")
            return self.leads
        self._valid_until = sent + self._seconds * DEADLINE if self._lease else 0.0
        return self.leads

    async def _take(self) -> Manifest | None:
        """The Lease as written, or None if another holds it. Raises Conflict if another was quicker."""
        try:
            held = self._lease or await self._kube.get(self._ref)
        except NotFound:
            return await self._kube.create(self._manifest({}, spec={}))
        if not self._may_take(held):
            return None
        return await self._kube.replace(self._manifest(held["metadata"], spec=held["spec"]))

    def _may_take(self, held: Manifest) -> bool:
        """Ours, free, or not renewed for a whole term that we watched ourselves: clocks of two machines may differ."""
        spec = held["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._identity) or (self._only_here and holder.rpartition("_")[0] == self._host):
            return True
        version = held["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, _now())
            return False
        term: float = spec.get("leaseDurationSeconds") or self._seconds
        return _now() - self._seen[1] > term

    async def _give_back(self) -> None:
        if self._lease is None or not self.leads:
            return
        free = self._manifest(self._lease["metadata"], spec=self._lease["spec"])
        self._valid_until = 0.0
        try:
            await self._kube.replace({**free, "spec": {**free["spec"], "holderIdentity": ""}})
        except KubeError as refused:
            log.warning("the Lease was not given back: %s", refused)

    def _manifest(self, meta: Manifest, *, spec: Manifest) -> dict[str, Any]:
        """The Lease as ours from now on; ``spec`` is what it said before."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = spec.get("holderIdentity") == self._identity
        version = {"resourceVersion": meta["resourceVersion"], "uid": meta["uid"]} if meta else {}
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self._ref.name, "namespace": self._ref.namespace, **version},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._seconds)),
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (bool(spec) and not ours),
            },
        }


def _now() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
