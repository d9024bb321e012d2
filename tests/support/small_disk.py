"""A disk that is soon full: a tmpfs of a few bytes, in a mount namespace of this process alone, without root."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


def mount_small_disk(at: Path, *, size: int) -> None:
    """For a process with one thread, before it does anything else; gone with the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    at.mkdir(parents=True, exist_ok=True)
    _check(libc.mount(b"tmpfs", os.fsencode(at), b"tmpfs", 0, f"size={size}".encode()))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
