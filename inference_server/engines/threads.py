"""How many threads compute."""

import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def threads() -> int:
    """How many threads compute: OMP_NUM_THREADS if set, else the processors this process may use."""
    if wanted := os.environ.get("OMP_NUM_THREADS", ""):
        return int(wanted) if wanted.isdecimal() else 1
    allowed = len(os.sched_getaffinity(0))
    quota, period = (CGROUP_QUOTA.read_text().split() if CGROUP_QUOTA.exists() else ("max", "1"))[:2]
    return allowed if quota == "max" else max(1, min(allowed, round(int(quota) / int(period))))
