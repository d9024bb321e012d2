"""How often a machine has been asked for in each place of a Workspace, what became of it, and when the next may be.

A place is a slot; each Machine for it has a number of its own, the attempt, and a name that follows from both. The
status keeps the account: a Machine that vanishes leaves nothing else behind.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kaito_operator.api.conditions import moment, timestamp
from kaito_operator.api.reasons import Reason
from kaito_operator.workspace.finding import cut
from kaito_operator.workspace.seen_machines import Machine

FIRST_BACK_OFF = timedelta(seconds=30)
"""Between the loss of a Machine and the next: a provisioner that takes each away is not to be kept busy."""
LONGEST_BACK_OFF = timedelta(minutes=30)
HOPELESS_BACK_OFF = timedelta(days=1)
"""After a refusal that time alone does not mend."""
FORGOTTEN = timedelta(hours=2)
"""A loss so long after the last wait is the first of a new row."""
LONGEST_WORDS = 1024
NOT_OFFERED = ("instance type not found", "is not offered", "is not available in location", "SkuNotAvailable")
"""What providers of Karpenter say of a size that they do not have, in a message without a reason of its own."""
NO_QUOTA = re.compile(r"\bLimit: 0\b")
"""Azure's words for a quota that nobody ever gave."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt that a slot is at."""

    slot: int
    number: int = 1
    asked: bool = False
    """Whether its Machine was asked for; if so and it is not there, it is lost."""
    losses: int = 0
    """Machines lost in a row before it."""
    reason: str = ""
    """Why the last one was lost."""
    words: str = ""
    not_before: datetime | None = None
    """When the next may be asked for."""

    @property
    def unexplained(self) -> bool:
        """Whether the last Machine went and nobody has said why."""
        return self.reason == Reason.MACHINE_BACK_OFF and not self.asked

    def wait(self, now: datetime) -> float:
        """Seconds until its Machine may be asked for."""
        return max(0.0, (self.not_before - now).total_seconds()) if self.not_before is not None else 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a Machine went, as well as anybody knows."""

    reason: Reason
    words: str

    @property
    def hopeless(self) -> bool:
        """Whether the next would be refused for the same: the size is not offered, or there is no quota at all."""
        if self.reason in (Reason.QUOTA_EXCEEDED, Reason.LAUNCH_FAILED) and NO_QUOTA.search(self.words):
            return True
        unknown = self.reason == Reason.LAUNCH_FAILED and any(words in self.words for words in NOT_OFFERED)
        return self.reason == Reason.SKU_NOT_AVAILABLE or unknown


def recorded(status: Mapping[str, Any]) -> dict[int, Attempt]:
    """The account that the status keeps, by slot. What of it cannot be read is as if it were not there."""
    entries = status.get("machines")
    read = (_read(entry) for entry in entries if isinstance(entry, dict)) if isinstance(entries, list) else ()
    return {attempt.slot: attempt for attempt in read if attempt is not None}


def _read(entry: Mapping[str, Any]) -> Attempt | None:
    try:
        return Attempt(
            slot=int(entry["slot"]),
            number=int(entry["attempt"]),
            asked=bool(entry.get("name")),
            losses=int(entry.get("losses", 0)),
            reason=str(entry.get("reason", "")),
            words=str(entry.get("message", "")),
            not_before=moment(entry["notBefore"]) if "notBefore" in entry else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def written(attempts: Iterable[Attempt], *, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The account as status.machines has it. ``names``: those of the Machines, by slot."""
    return [_written(attempt, names[attempt.slot]) for attempt in sorted(attempts, key=lambda each: each.slot)]


def _written(attempt: Attempt, name: str) -> dict[str, Any]:
    lost = {"losses": attempt.losses, "reason": attempt.reason, "message": attempt.words} if attempt.losses else {}
    return {
        "slot": attempt.slot,
        "attempt": attempt.number,
        **({"name": name} if attempt.asked else {}),
        **lost,
        **({"notBefore": timestamp(attempt.not_before)} if attempt.not_before is not None else {}),
    }


def went_on(known: Attempt, machine: Machine | None, *, loss: Loss, wanted: bool, now: datetime) -> Attempt:
    """What has become of an attempt. ``machine``: the one seen in its slot. ``loss``: why it is gone, if it is.

    ``wanted``: whether a machine is still wanted there; if not, its end is no loss.
    """
    number = max(known.number, machine.attempt) if machine is not None else known.number
    if machine is not None and not machine.deleting:
        return replace(known, number=number, asked=machine.attempt == number)
    if machine is not None and machine.attempt < known.number:
        return known
    if machine is None and not known.asked:
        return _explained(known, loss, now=now) if known.unexplained else known
    if not wanted:
        return Attempt(known.slot, number + 1)
    return _lost(known, number + 1, loss=loss, now=now)


def _explained(known: Attempt, loss: Loss, *, now: datetime) -> Attempt:
    """An event may come after the end that it tells of."""
    if loss.reason == Reason.MACHINE_BACK_OFF:
        return known
    until = now + HOPELESS_BACK_OFF if loss.hopeless else known.not_before
    return replace(known, reason=loss.reason.value, words=cut(loss.words, LONGEST_WORDS), not_before=until)


def _lost(known: Attempt, number: int, *, loss: Loss, now: datetime) -> Attempt:
    in_a_row = known.not_before is not None and now - known.not_before < FORGOTTEN
    losses = known.losses + 1 if in_a_row else 1
    wait = HOPELESS_BACK_OFF if loss.hopeless else min(FIRST_BACK_OFF * 2 ** min(losses - 1, 10), LONGEST_BACK_OFF)
    return Attempt(
        known.slot,
        number,
        losses=losses,
        reason=loss.reason.value,
        words=cut(loss.words, LONGEST_WORDS),
        not_before=now + wait,
    )


def forgiven(known: Attempt) -> Attempt:
    """As if nothing had been lost: the Workspace was changed, so everything may be tried at once."""
    return Attempt(known.slot, known.number, asked=known.asked)
