"""One container from start to end: a process tree under bubblewrap, its log, and other commands run in it."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from local_cluster import bubblewrap, memory_limit
from local_cluster.child import Capture, Child, FirstWord, children, pipes
from local_cluster.container_log import ContainerLog, LogPipe
from local_cluster.container_spec import ContainerSpec

KILLED = 128 + signal.SIGKILL
MOST_OUTPUT = 16 * 1024 * 1024
"""Bytes of each stream that ExecSync answers (api.proto, ExecSyncResponse)."""


class StartFailed(Exception):
    """The container's program did not start; the message is for whoever wrote the pod."""


class NotRunning(Exception):
    """There is nothing to run a command in."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command in a container wrote, and its exit code."""

    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended, in containerd's words; ``finished`` in nanoseconds since 1970."""

    code: int
    reason: str
    finished: int
    message: str = ""


@dataclass(slots=True)
class _Running:
    """A container's processes and files while it runs. ``main`` and ``main_descriptor`` are its own first process."""

    child: Child
    log: ContainerLog
    output: tuple[LogPipe, LogPipe]
    kernel_kills: int
    main: int = 0
    main_descriptor: int = -1
    killed_by_us: bool = False
    out_of_memory: bool = False

    async def ended(self) -> None:
        """Waits for the last process and the last byte."""
        await self.child.ended.wait()
        for stream in self.output:
            await stream.ended.wait()
        self.log.close()
        if self.main:
            os.close(self.main_descriptor)

    def find_main(self) -> None:
        """bubblewrap's own child is process 1 in there, and the container's program the first child of that."""
        for init in children(self.child.pid):
            for main in children(init)[:1]:
                with suppress(ProcessLookupError):
                    self.main, self.main_descriptor = main, os.pidfd_open(main)


class Container:
    """A container: made, started once, ended."""

    def __init__(self, spec: ContainerSpec, *, log_path: Path) -> None:
        self.spec = spec
        self.log_path = log_path
        self.started = 0
        """Nanoseconds since 1970; 0 before it was."""
        self.exit: Exit | None = None
        """None while it has not ended."""
        self._running: _Running | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process above all of its processes; None while it does not run."""
        return self._running.child.pid if self._running else None

    @property
    def main(self) -> int:
        """Its own first process; 0 while it does not run."""
        return self._running.main if self._running else 0

    async def start(self, *, mounts_of: int, network: str | None) -> None:
        """Returns when the container's program runs. Raises StartFailed; the container has ended then.

        ``mounts_of`` is the process whose mounts it sees, ``network`` the path of the pod's network namespace or None.
        """
        log = ContainerLog(self.log_path)
        report, output = FirstWord(), (LogPipe(log, "stdout"), LogPipe(log, "stderr"))
        with _in_memory(self.spec.files) as files:
            argv = bubblewrap.run(self.spec, mounts_of=mounts_of, network=network, files=files)
            async with pipes(report, *output) as ends:
                child = Child(argv, stdin=ends[0], stdout=ends[1], stderr=ends[2], pass_fds=files.values())
        running = _Running(child, log=log, output=output, kernel_kills=_kernel_kills())
        try:
            await report.said.wait()
        except asyncio.CancelledError:
            child.kill()
            raise
        if report.word != bubblewrap.STARTED:
            await running.ended()
            raise self._failed(report.word or output[1].last_line)
        running.find_main()
        self._running, self.started = running, time.time_ns()
        self._watch = asyncio.create_task(self._until_ended(running))

    async def stop(self, *, grace: float) -> None:
        """Ends it: its main process gets the stop signal, and ``grace`` seconds later everything is killed."""
        running, watch = self._running, self._watch
        if running is None or watch is None:
            return
        if grace > 0 and running.main:
            with suppress(ProcessLookupError):  # it has just ended by itself
                signal.pidfd_send_signal(running.main_descriptor, self.spec.stop_signal)
            await asyncio.wait({watch}, timeout=grace)
        if not watch.done():
            running.killed_by_us = True
            running.child.kill()
            await asyncio.wait({watch})

    def entering(self, command: Sequence[str], *, tty: bool = False) -> list[str]:
        """The command line that runs another command in it. Raises NotRunning."""
        if self._running is None or not self._running.main:
            raise NotRunning("the container is not running")
        return bubblewrap.enter(self.spec, target=self._running.main, command=tuple(command), tty=tty)

    async def execute(self, command: Sequence[str], *, timeout: float | None) -> Output:
        """Runs another command in it; one that is not there has exit code 127. Raises NotRunning, TimeoutError."""
        argv = self.entering(command)
        stdout, stderr = Capture(MOST_OUTPUT), Capture(MOST_OUTPUT)
        async with pipes(stdout, stderr) as ends:
            child = Child(argv, stdin=subprocess.DEVNULL, stdout=ends[0], stderr=ends[1])
        try:
            async with asyncio.timeout(timeout):
                for event in (child.ended, stdout.ended, stderr.ended):
                    await event.wait()
        finally:
            child.kill()
        return Output(stdout=bytes(stdout.data), stderr=bytes(stderr.data), exit_code=child.code)

    def reopen_log(self) -> None:
        """Goes on in a new log file, if it still writes."""
        if self._running:
            self._running.log.reopen()

    async def _until_ended(self, running: _Running) -> None:
        limited = asyncio.create_task(self._keep_within(running)) if self.spec.memory_limit else None
        await running.ended()
        if limited:
            limited.cancel()
        code = running.child.code
        self.exit = Exit(code=code, reason=_reason(code, running), finished=time.time_ns())
        self._running = None

    async def _keep_within(self, running: _Running) -> None:
        """Ends it as the kernel ends a group that is over its limit: all of it."""
        await memory_limit.exceeded(running.child.pid, self.spec.memory_limit)
        running.out_of_memory = True
        running.child.kill()

    def _failed(self, why: bytes) -> StartFailed:
        message = f"unable to start container process: {why.decode(errors='replace').strip()}"
        self.exit = Exit(code=128, reason="StartError", finished=time.time_ns(), message=message)
        return StartFailed(message)


def _reason(code: int, running: _Running) -> str:
    by_kernel = not running.killed_by_us and _kernel_kills() > running.kernel_kills
    if code == KILLED and (running.out_of_memory or by_kernel):
        return "OOMKilled"
    return "Completed" if code == 0 else "Error"


def _kernel_kills() -> int:
    """How many processes the kernel has killed since boot to have memory again."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@contextmanager
def _in_memory(files: Mapping[str, str]) -> Iterator[dict[str, int]]:
    """Descriptors of the contents, each at its beginning; path → descriptor."""
    descriptors = {path: os.memfd_create(Path(path).name) for path in files}
    try:
        for path, content in files.items():
            os.pwrite(descriptors[path], content.encode(), 0)
        yield descriptors
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
