"""How long each stretch of a Machine's life may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """All in seconds."""

    gone: float
    """How long the pool must have been gone before the finalizer goes."""
    launch: float
    registration: float
    repair: float | None = None
    """How long a node may be not Ready before it is replaced; None is for ever."""
    drain: float | None = None
    """How long pods may keep a node that is to go; None is for ever."""
