"""The few system calls of Linux that the local cluster needs and Python 3.11 has no names for."""

import ctypes
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntFlag
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MNT_DETACH = 2
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000

CHOWN = {
    "x86_64": (0xC000003E, (92, 93, 94, 260)),  # chown, fchown, lchown, fchownat
    "aarch64": (0xC00000B7, (54, 55)),  # fchownat, fchown
}
"""Machine → its audit architecture and the numbers of the calls that change an owner (linux/audit.h, unistd.h)."""


class Mount(IntFlag):
    """Flags of mount(2)."""

    READ_ONLY = 0x1
    NO_SUID = 0x2
    NO_DEV = 0x4
    NO_EXEC = 0x8
    REMOUNT = 0x20
    BIND = 0x1000
    RECURSIVE = 0x4000
    SHARED = 0x100000


def mount(source: str | Path, target: str | Path, *, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2), ``flags`` of Mount. Raises OSError that names the target."""
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), data.encode())
    if _LIBC.mount(*arguments):
        raise _error(str(target))


def bind(source: str | Path, target: str | Path) -> None:
    """Makes ``source``, with all that is mounted below it, appear at ``target`` too."""
    mount(source, target, flags=Mount.BIND | Mount.RECURSIVE)


def tmpfs(target: str | Path, *, mode: str = "755") -> None:
    """An empty file system in memory at ``target``."""
    mount("tmpfs", target, kind="tmpfs", flags=Mount.NO_SUID | Mount.NO_DEV, data=f"mode={mode}")


def filesystem(place: Path) -> str:
    """The type of the file system that ``place`` is on, such as ext4; "" where the table of mounts does not tell."""
    device = place.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        of_mount, _, of_filesystem = line.partition(" - ")  # proc_pid_mountinfo(5)
        if of_mount.split()[2] == wanted:
            return of_filesystem.split()[0]
    return ""


def share(place: Path) -> None:
    """Makes ``place`` a mount whose later mounts below appear in every copy of this mount namespace, and back."""
    bind(place, place)
    mount("none", place, flags=Mount.SHARED)


def unmount(target: Path) -> None:
    """umount2(2), also of what is still in use. Raises OSError that names the target."""
    if _LIBC.umount2(os.fsencode(target), MNT_DETACH):
        raise _error(str(target))


def unmount_below(place: Path) -> None:
    """Unmounts ``place`` and all below it, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounted = (Path(line.split()[4].encode().decode("unicode_escape")) for line in lines)
    for target in sorted((target for target in mounted if target.is_relative_to(place)), reverse=True):
        unmount(target)


def leave_mount_namespace() -> None:
    """From here on this process has mounts of its own, a copy of those it had."""
    if _LIBC.unshare(CLONE_NEWNS):
        raise _error("unshare")


@contextmanager
def new_network_namespace() -> Iterator[int]:
    """Meanwhile the calling thread, and no other, is in a new network namespace.

    The descriptor keeps the namespace alive afterwards, for the caller to close; an exception closes it.
    """
    with _back_home():
        if _LIBC.unshare(CLONE_NEWNET):
            raise _error("unshare")
        new = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            yield new
        except BaseException:
            os.close(new)
            raise


@contextmanager
def network_namespace(descriptor: int) -> Iterator[None]:
    """Meanwhile the calling thread, and no other, is in this network namespace; sockets made there stay there."""
    with _back_home():
        if _LIBC.setns(descriptor, CLONE_NEWNET):
            raise _error("setns")
        yield


@contextmanager
def _back_home() -> Iterator[None]:
    """Afterwards the calling thread is in the network namespace that it was in."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        if _LIBC.setns(home, CLONE_NEWNET):
            raise _error("setns")
        os.close(home)


def make_chown_succeed_without_effect() -> None:
    """chown(2) and its kin answer 0 and do nothing, in this process and all it starts.

    For the kubelet: in a user namespace with a single user id it cannot give a service-account token to the pod's
    ``runAsUser``, and fails the pod (pkg/volume/util/atomic_writer.go). All containers here are that one user under
    another name, so that a file left alone already belongs to the right one.
    """
    architecture, calls = CHOWN[platform.machine()]
    program = chown_filter(architecture, calls)
    code = ctypes.create_string_buffer(program)
    fprog = _SockFprog(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    if _LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0):
        raise _error("seccomp")


def chown_filter(architecture: int, calls: Iterable[int]) -> bytes:
    """The filter in classic BPF: these calls of this architecture answer errno 0, every other goes through."""
    load_word, jump_if_equal, answer = 0x20, 0x15, 0x06
    numbers = tuple(calls)
    instructions = [
        (load_word, 0, 0, 4),  # seccomp_data.arch
        (jump_if_equal, 0, len(numbers) + 1, architecture),
        (load_word, 0, 0, 0),  # seccomp_data.nr
        *((jump_if_equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (answer, 0, 0, SECCOMP_RET_ALLOW),
        (answer, 0, 0, SECCOMP_RET_ERRNO | 0),
    ]
    return b"".join(bytes(_SockFilter(*instruction)) for instruction in instructions)


class _SockFilter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
