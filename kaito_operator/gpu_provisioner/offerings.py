"""Which machine sizes cannot be had for now: what one Machine was refused for is not asked again for the next.

Karpenter's unavailable-offerings cache, with the times of its provider for Azure.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kaito_operator.gpu_provisioner.errors import Refusal

MINUTE, HOUR = 60.0, 3600.0
ALL = "*"
_NAME = re.compile(r"(?P<series>[a-z]+_[a-z]+)(?P<number>\d+)(?P<constrained>-\d+)?(?P<rest>.*)", re.IGNORECASE)
"""Azure's names of sizes: Standard_NC24ads_A100_v4 is number 24 of the family Standard_NC…ads_A100_v4."""


@dataclass(frozen=True, slots=True)
class Offering:
    """A size, on spot or on demand, in the region or in some of its zones."""

    vm_size: str
    spot: bool = False
    zones: tuple[str, ...] = ()


def family(vm_size: str) -> tuple[str, int] | None:
    """A size's family, of which it has a quota together with its siblings, and its number: its vCPUs, or with the
    oldest ones what grows with them. None for what has no name of Azure's."""
    found = _NAME.fullmatch(vm_size)
    return None if found is None else (f"{found['series']}#{found['rest']}".lower(), int(found["number"]))


@dataclass(slots=True)
class Offerings:
    """What was refused, and until when that holds."""

    _unavailable: dict[Offering, tuple[Refusal, datetime]] = field(default_factory=dict)

    def refused(self, offering: Offering, refusal: Refusal, *, now: datetime) -> None:
        """Takes in a refusal; one that says nothing of the size is not kept."""
        seconds = seconds_of(refusal, spot=offering.spot)
        if seconds is None:
            return
        if refusal.reason == "QuotaExceeded":  # a quota has no zones
            whole = offering.spot and "LowPriority" in refusal.message
            offering = Offering(ALL if whole else offering.vm_size, offering.spot)
        self._unavailable[offering] = (refusal, now + timedelta(seconds=seconds))

    def unavailable(self, offering: Offering, *, now: datetime) -> Refusal | None:
        """Why it cannot be had; ``retry_after`` is what is left of the time. None if nothing is known against it."""
        self._unavailable = {key: kept for key, kept in self._unavailable.items() if kept[1] > now}
        # What the region has not, none of its zones has; what a zone has not, the region may have (kaito #1951).
        wider = (offering, Offering(offering.vm_size, offering.spot), Offering(ALL, offering.spot))
        kept = next((self._unavailable[each] for each in wider if each in self._unavailable), None)
        kept = kept or self._of_the_family(offering)
        if kept is None:
            return None
        refusal, until = kept
        return Refusal(refusal.reason, refusal.message, (until - now).total_seconds(), refusal.terminal)

    def _of_the_family(self, offering: Offering) -> tuple[Refusal, datetime] | None:
        """The quota that had no room for a sibling has none for a larger one, and may have for a smaller one."""
        asked = family(offering.vm_size)
        for each, kept in self._unavailable.items():
            sibling = family(each.vm_size) if kept[0].reason == "QuotaExceeded" and each.spot == offering.spot else None
            if asked and sibling and sibling[0] == asked[0] and sibling[1] <= asked[1]:
                return kept
        return None


def seconds_of(refusal: Refusal, *, spot: bool) -> float | None:
    """For how long a refusal speaks for the size; None if it speaks of something else."""
    if refusal.reason == "QuotaExceeded":
        whole = "Current Limit: 0" in refusal.message or (spot and "LowPriority" in refusal.message)
        return HOUR if whole else 10 * MINUTE
    if refusal.reason == "AllocationFailed":
        return HOUR
    if refusal.reason == "SkuNotAvailable":
        return HOUR if spot else 23 * HOUR
    return None
