"""The log in the form that the kubelet reads (kubernetes/cri-api, "CRI logging")."""

import asyncio
from pathlib import Path

import pytest

from local_cluster.container_log import LONGEST_LINE, ContainerLog, LogPipe
from tests.support.cri_client import log_lines


async def logged(path: Path, chunks: list[bytes]) -> list[tuple[str, str, str]]:
    log = ContainerLog(path / "pod" / "c.log")
    pipe = LogPipe(log, "stdout")
    for chunk in chunks:
        pipe.data_received(chunk)
    pipe.connection_lost(None)
    await asyncio.wait_for(pipe.ended.wait(), 120)
    log.close()
    return log_lines(path / "pod" / "c.log")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_lines_are_whole_however_they_come(tmp_path: Path, size: int) -> None:
    text = b"one\n\nthree\nno end"
    assert await logged(tmp_path, _cut(text, size)) == [
        ("stdout", "F", line) for line in ("one", "", "three", "no end")
    ]


def _cut(text: bytes, size: int) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1000, LONGEST_LINE, 10 * LONGEST_LINE])
async def test_a_long_line_is_cut_into_parts(tmp_path: Path, size: int) -> None:
    line = b"x" * (2 * LONGEST_LINE + 5)
    assert await logged(tmp_path, _cut(line + b"\nnext\n", size)) == [
        ("stdout", "P", "x" * LONGEST_LINE),
        ("stdout", "P", "x" * LONGEST_LINE),
        ("stdout", "F", "x" * 5),
        ("stdout", "F", "next"),
    ]


async def test_nothing_written_is_nothing_logged(tmp_path: Path) -> None:
    assert await logged(tmp_path, []) == []


async def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "c.log")
    LogPipe(log, "stderr").data_received(b"\xff\xfe\n")
    log.close()
    assert (tmp_path / "c.log").read_bytes().endswith(b" stderr F \xff\xfe\n")
