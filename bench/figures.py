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


def measure(prefix: str) -> Callable[[Measure], Measure]:
    """Registers a generator of figures under the prefix that their names share."""

    def register(made: Measure) -> Measure:
        MEASURES[prefix] = made
        return made

    return register
