"""How often an engine may fail before it is better to start the process anew."""

import time
from collections import deque
from collections.abc import Callable

MOST = 3
WITHIN_SECONDS = 600.0


class Failures:
    """The failures of one engine. A failure ends the requests it hits; too many of them end the engine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at: deque[float] = deque(maxlen=MOST)

    def add(self) -> None:
        """One more, now."""
        self._at.append(self._clock())

    @property
    def too_many(self) -> bool:
        """Whether there were three within ten minutes."""
        return len(self._at) == MOST and self._at[-1] - self._at[0] < WITHIN_SECONDS
