"""When a request is worth another attempt, and how long to wait before it."""

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

WORTH_ANOTHER = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_PAUSE = 60.0
"""Seconds; a Retry-After above that is cut."""


class Interrupted(Exception):
    """The answer broke off, or asks for patience; ``after`` is what Retry-After said, in seconds."""

    def __init__(self, message: str, *, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True, slots=True)
class Patience:
    """The pauses between attempts, in seconds; one attempt more than pauses."""

    pauses: Sequence[float] = (1, 2, 4, 8, 16, 30)

    def wait(self, attempt: int, *, after: float = 0) -> bool:
        """Waits before the attempt after the ``attempt``-th (from 0); False, at once, if there is none."""
        if attempt >= len(self.pauses):
            return False
        pause = max(self.pauses[attempt] * random.uniform(0.75, 1.25), min(after, LONGEST_PAUSE))
        threading.Event().wait(pause)
        return True


def check_patience(answer: httpx.Response) -> None:
    """Raises Interrupted for an answer that another attempt may better."""
    if answer.status_code in WORTH_ANOTHER:
        text = answer.headers.get("retry-after", "")
        after = float(text) if text.isdigit() else 0.0
        raise Interrupted(f"the server answers {answer.status_code}", after=after)


def trouble(error: httpx.TransportError | Interrupted) -> str:
    """What went wrong in words without the URL."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
