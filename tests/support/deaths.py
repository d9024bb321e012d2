"""A program that is killed at every write on its way somewhere: each process starts where another ended.

Each process gets to one write and dies: every other one before the request leaves it, the next after the write was
carried out and before its answer comes. Only a process that dies carries a write out, so each is one at which one died.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from local_cluster import credentials
from tests.support.control_plane import ApiServer
from tests.support.forked import forked
from tests.support.held_writes import HeldWrites, When
from tests.support.ports import free_ports
from tests.support.waiting import soon

WITHIN = 60.0
MOST_DEATHS = 60
DEATHS: tuple[When, When] = ("before the request", "before its answer")


@dataclass
class Deaths:
    """The processes of one pod, one after another, whose way to whom they write to is ``writes``'s."""

    writes: HeldWrites
    arguments: Sequence[str]
    settings: dict[str, str]
    log: Path
    died_at: list[tuple[When, str]] = field(default_factory=list)

    @contextmanager
    def process(self) -> Iterator[None]:
        """The next one; killed at the end."""
        ports = dict(zip(("KAITO_METRICS_PORT", "KAITO_HEALTH_PORT"), map(str, free_ports(2)), strict=True))
        with forked(self.arguments, environment={**self.settings, **ports}, log=self.log):
            yield

    async def undisturbed(self, until: Callable[[], bool]) -> None:
        """A process that lives until it has come to that."""
        with self.process():
            await soon(until, within=WITHIN, what=until.__name__)

    async def dying_at_every_write(self, until: Callable[[], bool]) -> None:
        """Processes that die, one after the other, until one of them has nothing to write on the way there."""
        for number in range(MOST_DEATHS):
            when = DEATHS[number % 2]
            self.writes.hold(when)
            with self.process():
                await self._held_or(until)
            await self.writes.hung_up()
            if not self.writes.held.is_set():
                return self.writes.let_go()
            self.died_at.append((when, self.writes.what))
            self.writes.let_go()
        raise AssertionError(f"not {until.__name__} after {MOST_DEATHS} processes: {self.died_at}")

    async def _held_or(self, until: Callable[[], bool]) -> None:
        """Until a write is held; or that is so, and no write comes any more."""
        async with asyncio.timeout(WITHIN):
            while not self.writes.held.is_set() and not await asyncio.to_thread(until):
                await asyncio.wait([asyncio.create_task(self.writes.held.wait())], timeout=0.05)


@asynccontextmanager
async def way_to_server(writes: HeldWrites, server: ApiServer, *, kubeconfig: Path) -> AsyncIterator[None]:
    """The way to the API server for the user ``operator``, as a kubeconfig."""
    authority = server.plane.authority
    async with writes.way_to(server.url, authority=str(authority)) as url:
        token, known_by = server.tokens["operator"], authority.read_bytes()
        content = credentials.kubeconfig(server=url, token=token, authority=known_by, cluster="test")
        credentials.write_secret(kubeconfig, content)
        yield
