"""How much memory there is to take: of the card, or of the machine and of the container, whichever ends first."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Of this process, as containers have it mounted."""


def free(device: torch.device) -> int:
    """Bytes. Without a card, what the kernel calls available, and no more than the container's limit leaves. On a card
    what torch has taken and does not use counts, for it is given back."""
    if device.type != "cpu":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    left = _left(CGROUP)
    available = int(psutil.virtual_memory().available)
    return available if left is None else min(available, left)


def _left(cgroup: Path) -> int | None:
    """What a limit leaves (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory); None where there is none. Files
    that nobody has read lately are not counted as taken, as the kubelet does not count them in a working set."""
    try:
        limit, taken, stat = ((cgroup / f"memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:
        return None
    if not limit.strip().isdecimal():
        return None
    idle = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file ")), 0)
    return max(0, int(limit) - max(0, int(taken) - idle))
