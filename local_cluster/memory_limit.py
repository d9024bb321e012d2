"""The memory limit of a container, kept by looking: without root there is no control group that would keep it."""

import asyncio
from contextlib import suppress
from pathlib import Path

from local_cluster.child import children
from local_cluster.container_usage import usage

SECONDS = 0.2
"""Between looks. What grows faster than the machine has memory is the kernel's to end."""


async def exceeded(pid: int, limit: int) -> None:
    """Returns once ``pid`` and its descendants hold more than ``limit`` bytes together.

    Resident memory counts what processes share once for each of them; so where it is over, shares are asked for.
    """
    while usage(pid).memory <= limit or _shares(pid) <= limit:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(SECONDS)


def _shares(pid: int) -> int:
    """Bytes of memory of a process and its descendants, each with its share of what it has together with others."""
    own = 0
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    return own + sum(map(_shares, children(pid)))
