"""What is known of the pool of one name: values, and how what the cloud answers changes them."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import QUEUED, THROTTLED, Refusal

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds between tries that are refused, doubling; the cloud's own wish is honoured where it is longer."""
LONGEST_PAUSE_THROTTLED = 30.0
"""The same while requests are throttled: a bucket fills steadily, so waiting ever longer gains nothing."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A no of the cloud, until when it holds, and the how manyth in a row it is."""

    refusal: Refusal
    until: datetime
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one name."""

    pool: AgentPool | None = None
    absent_since: datetime | None = None
    """When the cloud first answered 404, with no other answer and no create since."""
    create_refused: Refused | None = None
    """Why there is no pool, if asking for it was refused or it failed."""
    delete_refused: Refused | None = None
    unseen: str = ""
    """Why the pool is only known as it was last seen; empty while the cloud can be asked."""

    @property
    def nothing(self) -> bool:
        """Whether the cloud was never asked, as after a start."""
        return self == Known()

    @property
    def was_refused(self) -> bool:
        """Whether the cloud's last word to a write, or to the look before it, was a no."""
        refusals = (self.create_refused, self.delete_refused)
        return any(no is not None and no.refusal.reason != QUEUED.reason for no in refusals)

    def throttled_at(self, now: datetime) -> bool:
        """Whether somebody waits for a turn here."""
        refusals = (self.create_refused, self.delete_refused)
        return any(no is not None and no.refusal.reason == THROTTLED.reason and no.until > now for no in refusals)

    def seen(self, pool: AgentPool, *, now: datetime) -> "Known":
        """The cloud showed the pool. A failed one is a no to the create that made it, until the next is asked for."""
        if pool == self.pool:
            return replace(self, unseen="") if self.unseen else self
        refused = self.create_refused if pool.state == "Deleting" else None
        if pool.problem is not None:
            refused = _refused(None, pool.problem, now=now)
        return Known(pool, create_refused=refused, delete_refused=self.delete_refused)

    def absent(self, *, now: datetime) -> "Known":
        """The cloud answered 404."""
        return Known(absent_since=self.absent_since or now, create_refused=self.create_refused)

    def lost(self, refusal: Refusal) -> "Known":
        """The cloud could not be asked; which matters while something is waited for."""
        return self if self.pool is None else replace(self, unseen=refusal.message)

    def asked(self) -> "Known":
        """A create is on its way: whatever becomes of it, a 404 of before says nothing any more."""
        return replace(self, absent_since=None)

    def no_create(self, refusal: Refusal, *, now: datetime) -> "Known":
        """A create, or the look before it, was refused."""
        return replace(self, create_refused=_refused(self.create_refused, refusal, now=now))

    def no_delete(self, refusal: Refusal, *, now: datetime) -> "Known":
        """A deletion, or a look on its behalf, was refused."""
        return replace(self, delete_refused=_refused(self.delete_refused, refusal, now=now))


def _refused(before: Refused | None, refusal: Refusal, *, now: datetime) -> Refused:
    if refusal.reason == QUEUED.reason:  # no try was made
        until = now + timedelta(seconds=refusal.retry_after)
        return Refused(refusal, until, before.tries if before is not None else 0)
    tries = before.tries + 1 if before is not None else 1
    longest = LONGEST_PAUSE_THROTTLED if refusal.reason == THROTTLED.reason else LONGEST_PAUSE
    pause = min(FIRST_PAUSE * 2.0 ** min(tries - 1, 20), longest)
    return Refused(refusal, now + timedelta(seconds=max(refusal.retry_after, pause)), tries)
