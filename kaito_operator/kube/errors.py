"""What the API server can answer instead of what was asked for, as types; nobody else reads status codes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass
class KubeError(Exception):
    """A request that was not granted. ``status`` is the HTTP status, 0 when there was no answer at all."""

    status: int
    reason: str
    message: str
    retry_after: float | None = None
    """Seconds that the server asks to wait."""

    def __str__(self) -> str:
        return f"{self.status or ''} {self.reason}: {self.message}".strip()


class NotFound(KubeError):
    """404: no such object, or no such kind."""


class Conflict(KubeError):
    """409: the object changed, exists already, or is another one than the uid says."""


class Gone(KubeError):
    """410: the resourceVersion is too old."""


class Invalid(KubeError):
    """400 or 422: the object is not acceptable."""


class Forbidden(KubeError):
    """401 or 403: who we are may not do this."""


class TooManyRequests(KubeError):
    """429: the server sheds load, or a disruption budget has no room."""


class Unavailable(KubeError):
    """5xx, a timeout, or no connection: nobody knows whether the request was carried out."""


class NotLeading(KubeError):
    """Not sent: this process does not hold the Lease, or not for sure."""


_TYPES: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def of(status: int, body: bytes, headers: Mapping[str, str]) -> KubeError:
    """The typed error of an answer; the message is the server's own."""
    try:
        told = json.loads(body)
        reason, message = str(told.get("reason", "")), str(told.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", body[:200].decode(errors="replace")
    kind = _TYPES.get(status, Unavailable if status >= 500 else KubeError)
    return kind(status, reason, message, retry_after(headers.get("Retry-After")))


def retry_after(value: str | None) -> float | None:
    """Seconds from either form of Retry-After (RFC 9110 §10.2.3); None if absent or unreadable."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
