"""A keyed work queue: no key is worked on twice at once, repeats collapse, failures back off."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from kaito_operator.plan import Key

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 300.0


class Retry(Exception):
    """Raised by the work: failed as can happen; look again, not before ``after`` seconds if that is given."""

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Watched(Protocol):
    """What the queue tells its metrics."""

    def added(self) -> None:
        """A key was asked for."""

    def depth(self, keys: int) -> None:
        """So many keys wait."""

    def retried(self) -> None:
        """A key failed and will be tried again."""

    def waited(self, seconds: float) -> None:
        """A key's turn has come after so long."""

    def worked(self, seconds: float) -> None:
        """The work on a key took so long."""


class Unwatched:
    """No metrics."""

    def added(self) -> None: ...

    def depth(self, keys: int) -> None: ...

    def retried(self) -> None: ...

    def waited(self, seconds: float) -> None: ...

    def worked(self, seconds: float) -> None: ...


class WorkQueue:
    """Feeds keys to ``work``, a few keys at a time and each key alone."""

    def __init__(
        self, work: Callable[[Key], Awaitable[float | None]], *, workers: int = 8, watched: Watched | None = None
    ) -> None:
        self._work, self._workers, self._watched = work, workers, watched or Unwatched()
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._dirty: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Asks for ``key`` to be worked on soon. Asking twice before it starts is asking once."""
        self._watched.added()
        self._cancel_timer(key)
        if key in self._running:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._ready.put_nowait(key)
            self._watched.depth(len(self._waiting))

    def look_again(self, key: Key, seconds: float) -> None:
        """Asks for ``key`` later; an ``add`` in between takes its place."""
        self._cancel_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def run(self) -> None:
        """Works until cancelled. An error in the queue itself ends it, and with it the process."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._serve())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _serve(self) -> None:
        while True:
            key = await self._ready.get()
            started = time.monotonic()
            self._watched.waited(started - self._waiting.pop(key))
            self._watched.depth(len(self._waiting))
            self._running.add(key)
            try:
                again = await self._attempt(key)
            finally:
                self._running.discard(key)
                self._watched.worked(time.monotonic() - started)
            if key in self._dirty:
                self._dirty.discard(key)
                self.add(key)
            elif again is not None:
                self.look_again(key, again)

    async def _attempt(self, key: Key) -> float | None:
        """When to look again. Whatever goes wrong with one key stays with that key."""
        try:
            again = await self._work(key)
        except Retry as failed:
            seconds = max(self._backoff(key), failed.after or 0.0)
            log.info("%s: %s; again in %.1f s", "/".join(filter(None, key)), failed, seconds)
            return seconds
        except Exception:
            # The one catch-all of the controllers: a bug that one object brings to light must not stop the others.
            seconds = self._backoff(key)
            log.exception("%s: unexpected error; again in %.1f s", "/".join(filter(None, key)), seconds)
            return seconds
        self._failures.pop(key, None)
        return again

    def _backoff(self, key: Key) -> float:
        """Doubles from 0.2 s to 5 min, with a fifth of jitter so that keys that failed together part."""
        self._watched.retried()
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        seconds: float = min(FIRST_BACKOFF * 2 ** min(failures - 1, 20), LONGEST_BACKOFF)
        return seconds * random.uniform(0.8, 1.2)

    def _cancel_timer(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
