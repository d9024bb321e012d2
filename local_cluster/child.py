"""Child processes and their pipes for asyncio, without a thread for each."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override


class Child:
    """A process of ours, in a session of its own. ``ended`` is set when it has, and then ``code`` is what it left."""

    def __init__(
        self, argv: Sequence[str], *, stdin: int, stdout: int, stderr: int, pass_fds: Iterable[int] = ()
    ) -> None:
        # In this very thread: what asks to die with its parent dies with the thread that started it (prctl(2)).
        self._process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            env={"PATH": os.environ.get("PATH", os.defpath)},
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.ended = asyncio.Event()
        self.code = 0
        """The exit code; 128 + n if signal n ended it, as a shell tells it."""
        self._descriptor = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._reap)

    def kill(self) -> None:
        """Ends it, and all that is still in its process group."""
        if not self.ended.is_set():
            os.killpg(self.pid, signal.SIGKILL)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        code = self._process.wait()
        self.code = code if code >= 0 else 128 - code
        self.ended.set()


class Capture(asyncio.Protocol):
    """Keeps the first ``limit`` bytes of a pipe and lets the others go by; ``ended`` is set when the pipe has ended."""

    def __init__(self, limit: int) -> None:
        self.ended = asyncio.Event()
        self.data = bytearray()
        self._limit = limit

    @override
    def data_received(self, data: bytes) -> None:
        self.data += data[: self._limit - len(self.data)]

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


class FirstWord(asyncio.Protocol):
    """The first thing said through a pipe, or nothing if it ends before; then it is closed."""

    def __init__(self) -> None:
        self.said = asyncio.Event()
        self.word = b""
        self._transport: asyncio.BaseTransport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self.word = data
        self.said.set()
        if self._transport:
            self._transport.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.said.set()


@asynccontextmanager
async def pipes(*readers: asyncio.Protocol) -> AsyncIterator[list[int]]:
    """The writing ends of new pipes, one to each reader; for a child to inherit, then closed on our side."""
    ends = []
    try:
        for reader in readers:
            reading, writing = os.pipe()
            ends.append(writing)
            await _connect(reader, os.fdopen(reading, "rb", buffering=0))
        yield ends
    finally:
        for writing in ends:
            os.close(writing)


async def _connect(reader: asyncio.Protocol, pipe: BinaryIO) -> None:
    await asyncio.get_running_loop().connect_read_pipe(lambda: reader, pipe)


def children(pid: int) -> tuple[int, ...]:
    """The child processes of a process, oldest first; none if it is gone."""
    try:
        return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return ()
