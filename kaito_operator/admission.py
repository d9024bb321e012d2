"""Refuses at the door what a pass would refuse later: the same validator, asked by the API server before it stores.

It is optional, and nothing relies on it: a Workspace that came in while it was down is validated by every pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kaito_operator.plan import Manifest

LONGEST_ANSWER = 4000
"""Characters; ``kubectl`` prints all of it."""
WRITTEN_BY_USERS = ("resource", "inference", "tuning")


@dataclass(frozen=True, slots=True)
class Door:
    """Where admission is answered: the port, and the directory with ``tls.crt`` and ``tls.key``."""

    port: int
    certificates: Path


def refusal(new: Manifest, old: Manifest | None, *, mistakes: Callable[[Manifest], str]) -> str:
    """All that is mistaken in one message; "" lets it in.

    What was stored under older rules may always be labelled, finalized and deleted: only what the user writes is
    judged, and only when it changes.
    """
    if old is not None and all(new.get(part) == old.get(part) for part in WRITTEN_BY_USERS):
        return ""
    if "deletionTimestamp" in new.get("metadata", {}):
        return ""
    told = mistakes(new)
    return told if len(told) <= LONGEST_ANSWER else f"{told[:LONGEST_ANSWER]}…"
