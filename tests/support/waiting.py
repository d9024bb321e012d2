"""Waiting for what comes from elsewhere: never longer than needed, and saying what was there instead."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


TRIES = 5
LEAST = 120.0
"""Seconds before anything is given up: however busy the machine is, and nobody waits for what has come."""


class NotInTime(AssertionError):
    """What was awaited did not come; the message holds what was there instead."""


def surely(act: Callable[[], Answer]) -> Answer:
    """What a busy server answered at last to what may be done twice. Raises OSError if it never did."""
    for _ in range(TRIES - 1):
        try:
            return act()
        except OSError:
            continue
    return act()


def eventually(look: Callable[[], Answer | None], *, within: float, what: str) -> Answer:
    """The first truthy answer of ``look``; raises NotInTime with the last one after ``within`` seconds, or LEAST."""
    deadline = time.monotonic() + max(within, LEAST)
    between_looks, pause = threading.Event(), 0.02
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {max(within, LEAST):g} s; last seen: {answer!r}")
        between_looks.wait(pause)
        pause = min(2 * pause, 0.2)


async def soon(look: Callable[[], Answer | None], *, within: float = 60.0, what: str = "") -> Answer:
    """The same while the event loop goes on; ``look`` runs in a thread, so it may wait for an answer."""
    deadline = time.monotonic() + max(within, LEAST)
    while True:
        answer = await asyncio.to_thread(look)
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {max(within, LEAST):g} s; last seen: {answer!r}")
        await asyncio.sleep(0.02)
