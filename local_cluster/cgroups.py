"""The control groups of a cluster of containers: one tree per node, in each hierarchy that the kernel has.

They outlive the processes in them and the namespace they were made in, so they are removed by name.
"""

import errno
import os
import threading
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
WEIGHTS = {"cpu.shares": "65536", "cpu.weight": "6400"}
"""64 times the default: a group weighs as much as one program beside it, and in a cluster are many."""


def of_cluster(name: str) -> str:
    """The group above those of a cluster's nodes."""
    return f"/kaito-{name}"


def hierarchies(mounted: Path = MOUNTED) -> list[Path]:
    """The roots: one of version 2, or one for each controller of version 1."""
    if (mounted / "cgroup.controllers").exists():
        return [mounted]
    if not mounted.is_dir():
        return []
    return sorted(place for place in mounted.iterdir() if not place.is_symlink() and (place / "cgroup.procs").exists())


def make(name: str, *, mounted: Path = MOUNTED) -> None:
    """A group of this name, such as ``/kaito-local/node-1``, in each hierarchy."""
    for root in hierarchies(mounted):
        (root / name.strip("/")).mkdir(parents=True, exist_ok=True)
        for file, weight in WEIGHTS.items():
            whole = root / name.strip("/").partition("/")[0] / file
            if whole.exists():
                whole.write_text(weight)


def remove(name: str, *, mounted: Path = MOUNTED) -> None:
    """Removes the groups of this name and all below them. Absent ones are fine; so are processes about to end.

    Raises OSError if some do not end within seconds.
    """
    for root in hierarchies(mounted):
        # bottom-up, and only directories: the files in them are the kernel's
        for place, _, _ in os.walk(root / name.strip("/"), topdown=False):
            _remove(Path(place))


def _remove(place: Path) -> None:
    a_moment = threading.Event()
    for remaining in reversed(range(50)):
        try:
            place.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or not remaining:
                raise
        else:
            return
        a_moment.wait(0.1)  # a killed process leaves its group a little later
