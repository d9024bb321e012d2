"""What the processes of a container take."""

import os
from dataclasses import dataclass
from pathlib import Path

from local_cluster.child import children

NANOSECONDS_PER_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time so far in nanoseconds, resident memory and written files in bytes, number of processes."""

    cpu: int = 0
    memory: int = 0
    processes: int = 0
    files: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            cpu=self.cpu + other.cpu,
            memory=self.memory + other.memory,
            processes=self.processes + other.processes,
            files=self.files + other.files,
        )


def usage(pid: int) -> Usage:
    """What a process and all its descendants take, with the processor time of those that ended and were waited for."""
    return sum((usage(child) for child in children(pid)), start=_of_one(pid))


def written(main: int) -> Usage:
    """What was written beside all volumes in the container of this process: its root is a file system of its own."""
    try:
        root = os.statvfs(f"/proc/{main}/root")
    except (FileNotFoundError, ProcessLookupError):
        return Usage()
    return Usage(files=(root.f_blocks - root.f_bfree) * root.f_frsize)


def _of_one(pid: int) -> Usage:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return Usage()
    # proc_pid_stat(5), counted from field 3: utime 14, stime 15, cutime 16, cstime 17, rss 24.
    return Usage(cpu=sum(map(int, fields[11:15])) * NANOSECONDS_PER_TICK, memory=int(fields[21]) * PAGE, processes=1)
