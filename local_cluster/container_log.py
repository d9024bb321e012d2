"""The log of a container in the form that the kubelet reads: ``<RFC 3339 time> stdout|stderr F|P <text>``."""

import asyncio
import os
import time
from pathlib import Path

from typing_extensions import override

LONGEST_LINE = 16 * 1024
"""Bytes of a line before it is cut into parts, as containerd does (max_container_log_line_size)."""


class ContainerLog:
    """The log file of one container."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open(path)

    def write(self, stream: str, text: bytes, *, partial: bool) -> None:
        """Adds a line, or a part of a line that is not its last."""
        line = b"%s %s %s %s\n" % (now().encode(), stream.encode(), b"P" if partial else b"F", text)
        os.write(self._file, line)

    def reopen(self) -> None:
        """Goes on in a new file, for the kubelet has moved the old one away."""
        os.close(self._file)
        self._file = _open(self._path)

    def close(self) -> None:
        """Nothing is written after this."""
        os.close(self._file)


class LogPipe(asyncio.Protocol):
    """Puts what comes through a pipe into the log, line by line; ``ended`` is set when the pipe has ended."""

    def __init__(self, log: ContainerLog, stream: str) -> None:
        self.ended = asyncio.Event()
        self.last_line = b""
        self._log = log
        self._stream = stream
        self._rest = b""

    @override
    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log.write(self._stream, self._without_parts(line), partial=False)
            self.last_line = line
        self._rest = self._without_parts(self._rest)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._log.write(self._stream, self._rest, partial=False)
            self.last_line = self._rest
        self.ended.set()

    def _without_parts(self, line: bytes) -> bytes:
        """Writes as many parts as the line is too long by; the remainder."""
        while len(line) > LONGEST_LINE:
            self._log.write(self._stream, line[:LONGEST_LINE], partial=True)
            line = line[LONGEST_LINE:]
        return line


def now() -> str:
    """The time, RFC 3339 with nanoseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
