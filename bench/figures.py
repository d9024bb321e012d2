"""A figure, and the registry of what yields figures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. ``baseline``: what it is compared with, measured in the same run, if anything."""

    name: str
    value: float
    unit: str
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value over baseline."""
        return None if not self.baseline else self.value / self.baseline


Measure = Callable[[], Iterator[Figure]]
MEASURES: dict[str, Measure] = {}
"""Prefix of the names → what measures them, in the order of registration."""
ONLY_WHEN_NAMED: set[str] = set()
"""Prefixes of what takes so long that nobody wants it by the way."""


def measure(prefix: str, *, only_when_named: bool = False) -> Callable[[Measure], Measure]:
    """Registers a generator of figures under the prefix that their names share."""

    def register(made: Measure) -> Measure:
        MEASURES[prefix] = made
        if only_when_named:
            ONLY_WHEN_NAMED.add(prefix)
        return made

    return register
