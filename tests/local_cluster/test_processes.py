"""Programs are kept running, asked whether they are ready, and heard when they end."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from local_cluster import usage
from local_cluster.errors import LocalClusterError
from local_cluster.processes import Program, first_yes


def a_program(tmp_path: Path, *argv: str) -> Program:
    """A program with a log in the test's directory."""
    return Program("it", argv, log_file=tmp_path / "it.log", environment=dict(os.environ))


async def test_a_program_that_ends_is_started_again_until_it_is_stopped(tmp_path: Path) -> None:
    program = a_program(tmp_path, "sh", "-c", f"echo started >> {tmp_path / 'starts'}")
    await program.start()

    async def started_twice() -> bool:
        return (tmp_path / "starts").exists() and (tmp_path / "starts").read_text() == "started\n" * 2

    await first_yes(started_twice, programs=[], within=60)
    await program.stop()
    assert program.ends >= 1
    assert program.pid is None


async def test_waiting_for_a_program_that_ends_tells_its_last_words(tmp_path: Path) -> None:
    program = a_program(tmp_path, "sh", "-c", "echo E0101 'error: no space left on device' >&2; echo bye; exit 1")
    await program.start()

    async def never() -> bool:
        return False

    with pytest.raises(LocalClusterError, match=r"^it ended: E0101 error: no space left on device$"):
        await first_yes(never, programs=[program], within=60)
    await program.stop()


async def test_waiting_has_an_end(tmp_path: Path) -> None:
    program = a_program(tmp_path, "sh", "-c", "echo still thinking; exec sleep 60")
    await program.start()

    async def never() -> bool:
        return False

    async def spoke() -> bool:
        return "still thinking" in (tmp_path / "it.log").read_text()

    await first_yes(spoke, programs=[program], within=60)
    with pytest.raises(LocalClusterError, match=r"^it not ready within 1 s: still thinking$"):
        await first_yes(never, programs=[program], within=1)
    await program.stop()


async def test_a_program_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    program = a_program(tmp_path, "sh", "-c", "trap 'echo asked; exit' TERM; echo up; while :; do sleep 0.1; done")
    await program.start()

    async def up() -> bool:
        return "up" in (tmp_path / "it.log").read_text()

    await first_yes(up, programs=[program], within=60)
    await program.stop(grace=60)
    assert (tmp_path / "it.log").read_text() == "up\nasked\n"
    await asyncio.sleep(0)
    assert program.ends == 0


def test_a_process_is_counted_with_all_its_descendants() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], stdin=subprocess.PIPE, start_new_session=True) as parent:
        try:
            names: list[str] = []
            for _ in range(1000):  # until the shell has forked
                names = [process.name for process in usage.below(parent.pid)]
                if len(names) == 2 and "sleep" in names:
                    break
            assert sorted(names) == ["sh", "sleep"]
        finally:
            os.killpg(parent.pid, 9)
    assert usage.below(parent.pid) == ()
