"""One writer at a time: a Lease (coordination.k8s.io/v1). A process without it observes and does not write.

Times are measured on the monotonic clock from the moment the renewal was *sent*, so a slow answer never lengthens our
own term. Whoever cannot renew in time ends at once, from a thread that a stuck event loop cannot hold up.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kaito_operator.api.kinds import LEASE
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Conflict, KubeError, NotFound
from kaito_operator.plan import Manifest, Ref

log = logging.getLogger(__name__)


class Leader:
    """Our term of office, or the wait for it."""

    def __init__(self, kube: Kube, *, name: str, namespace: str, identity: str, seconds: float) -> None:
        self._kube, self._identity, self._seconds = kube, identity, seconds
        self._ref = Ref(LEASE.api_version, LEASE.kind, name, namespace)
        self._valid_until = 0.0
        self._lease: Manifest | None = None
        self._seen: tuple[str, float] = ("", 0.0)

    @property
    def leads(self) -> bool:
        """Whether our term still runs."""
        return time.monotonic() < self._valid_until

    @asynccontextmanager
    async def term(self) -> AsyncIterator[None]:
        """Waits for the Lease, renews it while the context is open, gives it back at the end."""
        while not await self._tried():  # noqa: ASYNC110  (the event awaited is in the API server)
            await asyncio.sleep(self._seconds / 7.5)
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
            await asyncio.sleep(self._seconds / 7.5)
            await self._tried()

    def _end_when_over(self, done: threading.Event) -> None:
        """Ends the process when the term is over: what is under way must not write on another's watch."""
        while not done.wait(0.5):
            if not self.leads:
                log.critical("the Lease could not be renewed; ending")
                os._exit(1)

    async def _tried(self) -> bool:
        """One try to take or renew the Lease."""
        sent = time.monotonic()
        try:
            taken = await self._take()
        except KubeError as refused:
            log.warning("Lease %s: %s", self._ref.name, refused)
            return self.leads
        if taken is None:
            return False
        self._lease, self._valid_until = taken, sent + self._seconds * 2 / 3
        return True

    async def _take(self) -> Manifest | None:
        """The Lease as written, or None if another holds it."""
        try:
            held = self._lease or await self._kube.get(self._ref)
        except NotFound:
            return await self._kube.create(self._manifest({}, transitions=0))
        if not self._may_take(held):
            return None
        spec = held["spec"]
        ours = spec.get("holderIdentity") == self._identity
        transitions = spec.get("leaseTransitions", 0) + (not ours)
        try:
            return await self._kube.replace(self._manifest(held["metadata"], transitions=transitions))
        except Conflict:
            self._lease = None  # somebody wrote it: read it anew next time
            return None

    def _may_take(self, held: Manifest) -> bool:
        """Ours, free, or not renewed for a whole term that we watched ourselves: clocks of two machines may differ."""
        spec = held["spec"]
        if spec.get("holderIdentity") in ("", None, self._identity):
            return True
        version = held["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
            return False
        term: float = spec.get("leaseDurationSeconds") or self._seconds
        return time.monotonic() - self._seen[1] > term

    async def _give_back(self) -> None:
        if self._lease is None or not self.leads:
            return
        free = self._manifest(self._lease["metadata"], transitions=self._lease["spec"].get("leaseTransitions", 0))
        try:
            await self._kube.replace({**free, "spec": {**free["spec"], "holderIdentity": ""}})
        except KubeError as refused:
            log.warning("the Lease was not given back: %s", refused)
        self._valid_until = 0.0

    def _manifest(self, meta: Manifest, *, transitions: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        version = {"resourceVersion": meta["resourceVersion"], "uid": meta["uid"]} if meta else {}
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self._ref.name, "namespace": self._ref.namespace, **version},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._seconds)),
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
