"""How threads of OpenMP wait for each other: told by the environment, before torch loads their library."""

import os
from collections.abc import MutableMapping

SPINS = 1500
"""How often a thread looks whether the others have come before it sleeps: 30 to 70 µs, by processor, as long as it is
between two operations of a small step. libgomp's own 300,000 (its manual, GOMP_SPINCOUNT) keep a processor for
milliseconds on which the thread that is waited for could run, where another process has taken its own."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Has threads sleep soon while they wait, unless whoever starts the process has said how they wait."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS))
