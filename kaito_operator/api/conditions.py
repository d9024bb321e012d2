"""Status conditions: a list-map by type whose transition times move only when the status does."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Truth = Literal["True", "False", "Unknown"]
Conditions = Mapping[str, Mapping[str, Any]]
"""Seen ones, by their type."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as a plan states it; the time of its last transition is worked out by ``merged``."""

    type: str
    status: Truth
    reason: str
    message: str = ""


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as ``metav1.Time`` is written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(timestamp: str) -> datetime:
    """Reads ``metav1.Time`` and ``metav1.MicroTime``. Raises ValueError on anything else."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00"))


def by_type(conditions: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Seen conditions by their type."""
    return {c["type"]: c for c in conditions}


def is_true(conditions: Conditions, type: str) -> bool:
    """Whether the condition of this type is there and True."""
    return conditions.get(type, {}).get("status") == "True"


def merged(
    seen: Iterable[Mapping[str, Any]], wanted: Iterable[Condition], *, generation: int | None, now: datetime
) -> list[dict[str, Any]]:
    """``wanted`` as status entries, sorted by type; a status that did not change keeps its time.

    ``generation`` is stamped as observedGeneration; None leaves it out (Machine's schema has none).
    """
    before = by_type(seen)
    return [_entry(before.get(c.type), c, generation=generation, now=now) for c in sorted(wanted, key=lambda c: c.type)]


def _entry(
    before: Mapping[str, Any] | None, wanted: Condition, *, generation: int | None, now: datetime
) -> dict[str, Any]:
    same = before is not None and before.get("status") == wanted.status
    since = before["lastTransitionTime"] if same and before and "lastTransitionTime" in before else timestamp(now)
    return {
        "type": wanted.type,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "lastTransitionTime": since,
        **({} if generation is None else {"observedGeneration": generation}),
    }
