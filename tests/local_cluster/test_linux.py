"""System calls, tried on the kernel itself in a user namespace of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import namespace
from local_cluster.errors import LocalClusterError
from local_cluster.linux import CHOWN, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, chown_filter, filesystem


def _namespaces() -> bool:
    try:
        return namespace.needs_user_namespace()
    except LocalClusterError:
        return False


needs_user_namespaces = pytest.mark.skipif(not _namespaces(), reason="needs user namespaces")


def in_a_namespace(program: str, *arguments: str) -> str:
    """The output of Python code as root of a namespace that knows one user."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@needs_user_namespaces
def test_chown_succeeds_without_effect_under_the_filter_and_fails_without(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("")
    program = """
import os, sys
from local_cluster import linux
def attempt():
    try:
        os.chown(sys.argv[1], 65532, -1)
    except OSError as error:
        return error.strerror
    return f"owner {os.stat(sys.argv[1]).st_uid}"
print(attempt())
linux.make_chown_succeed_without_effect()
print(attempt())
os.execlp("chown", "chown", "65532:65532", sys.argv[1])
"""
    assert in_a_namespace(program, str(tmp_path / "token")) == "Invalid argument\nowner 0\n"


def test_the_file_system_of_a_place_is_known_where_the_table_of_mounts_has_it(tmp_path: Path) -> None:
    told = subprocess.run(["stat", "--file-system", "--format=%T", "/proc"], capture_output=True, text=True, check=True)
    assert filesystem(Path("/proc")) == told.stdout.strip() == "proc"
    assert filesystem(tmp_path) == filesystem(tmp_path.parent)


@needs_user_namespaces
def test_mounts_are_made_and_bound_in_a_namespace_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    program = """
import os, sys
from pathlib import Path
from local_cluster import linux
linux.leave_mount_namespace()
a, b = Path(sys.argv[1]), Path(sys.argv[2])
linux.tmpfs(a)
(a / "file").write_text("hello")
linux.bind(a, b)
print((b / "file").read_text())
try:
    linux.bind("/nowhere", b)
except OSError as error:
    print(error.filename == str(b))
"""
    assert in_a_namespace(program, str(tmp_path / "a"), str(tmp_path / "b")) == "hello\nTrue\n"
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("machine", CHOWN)
def test_the_filter_answers_for_the_calls_that_change_owners_and_no_others(machine: str) -> None:
    architecture, calls = CHOWN[machine]
    program = chown_filter(architecture, calls)
    denied = {number for number in range(500) if run(program, architecture, number) == SECCOMP_RET_ERRNO}
    assert denied == set(calls)
    assert {run(program, architecture, number) for number in range(500)} == {SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO}
    assert run(program, architecture + 1, calls[0]) == SECCOMP_RET_ALLOW


def run(program: bytes, architecture: int, number: int) -> int:
    """What a filter of classic BPF answers to a system call: load, jump if equal, return are all it uses."""
    data = {0: number, 4: architecture}
    counter = loaded = 0
    while True:
        instruction = program[8 * counter : 8 * counter + 8]
        code, if_true, if_false = int.from_bytes(instruction[:2], sys.byteorder), instruction[2], instruction[3]
        value = int.from_bytes(instruction[4:], sys.byteorder)
        counter += 1
        match code:
            case 0x20:
                loaded = data[value]
            case 0x15:
                counter += if_true if loaded == value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
