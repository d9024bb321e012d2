"""Keeps the cluster's programs running: started again when they end, their output in one file each."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from local_cluster.errors import LocalClusterError

log = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds before a program that ended is started again; more each time if it keeps ending."""


class Program:
    """One program, from ``start`` to ``stop``."""

    def __init__(self, name: str, argv: Sequence[str], *, log_file: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.ends = 0
        """How often it ended without being asked to."""
        self._argv = argv
        self._log_file = log_file
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and running else None

    async def start(self) -> None:
        """Starts it, and from now on again whenever it ends."""
        self._process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=self.name)

    async def stop(self, *, grace: float = 0) -> None:
        """Ends it: asks first if there is a ``grace`` in seconds, then kills."""
        if self._keeper is None or self._process is None:
            return
        self._keeper.cancel()
        if self._process.returncode is None and grace:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), grace)
            except TimeoutError:
                log.info("%s did not end within %s s", self.name, grace)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def last_words(self) -> str:
        """The line of its output that most likely says why it ended."""
        lines = self._log_file.read_text(errors="replace").splitlines()[-60:]
        telling = [line for line in lines if any(word in line.lower() for word in ("fatal", "panic", '"err', "error"))]
        return (telling or lines or ["no output"])[-1][:400]

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self._log_file.open("ab") as out:
            return await asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, env=self._environment
            )

    async def _keep(self) -> None:
        pause, now = SHORTEST_PAUSE, asyncio.get_running_loop().time
        while self._process is not None:
            started = now()
            code = await self._process.wait()
            self.ends += 1
            log.warning("%s ended with %s: %s", self.name, code, self.last_words())
            pause = SHORTEST_PAUSE if now() - started > LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)
            try:
                self._process = await self._spawn()
            except OSError as error:  # its file is gone, or there is no memory: the dead one is waited for again
                log.warning("%s cannot be started: %s", self.name, error)


async def first_yes(ready: Callable[[], Awaitable[bool]], *, programs: Sequence[Program], within: float) -> None:
    """Waits until fresh programs are ready, together.

    Raises LocalClusterError, with its last words, if one of them ends, and with those of the last one if it gets late.
    """
    try:
        async with asyncio.timeout(within):
            while not await ready():
                check(programs)
                await asyncio.sleep(0.05)  # none of these programs tells when it is ready; they must be asked
    except TimeoutError:
        late = programs[-1]
        raise LocalClusterError(f"{late.name} not ready within {within:.0f} s: {late.last_words()}") from None


def check(programs: Sequence[Program]) -> None:
    """Raises LocalClusterError with the last words of the first program that ended."""
    for program in programs:
        if program.ends:
            raise LocalClusterError(f"{program.name} ended: {program.last_words()}")
