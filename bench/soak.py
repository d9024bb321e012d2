"""Half an hour of coming and going with faults, time sped up: nothing leaks, in the cloud or in the process.

It says on standard error once a minute how far it is, and at its end, whatever ends it, what that was and when.
"""

import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import psutil

from bench.figures import Figure, measure
from bench.provisioner_scene import (
    MACHINES,
    Clouded,
    a_server,
    all_gone,
    ask_for,
    give_up,
    process_of,
    ready,
    size,
    told,
)
from kaito_operator.gpu_provisioner.agent_pool import agent_pool
from local_cluster.azure_faults import Fault
from tests.support.azure import ANY_TOKEN, CLUSTER, POOLS
from tests.support.control_plane import ApiServer
from tests.support.joins_as_node import NODES
from tests.support.machines import a_machine
from tests.support.provisioner_process import Provisioner
from tests.support.waiting import NotInTime, eventually, surely

MINUTES = float(os.environ.get("KAITO_SOAK_MINUTES", "30"))
AT_ONCE, PATIENCE = 10, 300.0
LOG = Path(__file__).parent / "out" / "soak.log"
"""Where the provisioner's log is kept."""
ROUNDS_BETWEEN_LEAKS = 5
QUICK = {
    "KAITO_POLL_SECONDS": "0.3",
    "KAITO_GONE_SECONDS": "0.3",
    "KAITO_CREATES_PER_10_MINUTES": "1000000",
    "KAITO_GARBAGE_SECONDS": "1",
    "KAITO_GARBAGE_GRACE_SECONDS": "5",
    "KAITO_GARBAGE_PER_HOUR": "1000000",
    "KAITO_AZURE_REQUESTS_PER_SECOND": "1000",
    "KAITO_REPAIR_SECONDS": "60",
    "KAITO_LEASE_SECONDS": "120",  # a machine with other load must not end the process: nobody starts another
}
FAULTS = (
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"status": 500},
    {"reset": True, "after_commit": True},
    {"truncated": True},
)
SUBNET = {"code": "InsufficientSubnetSize", "message": "no addresses"}


class Ended(Exception):
    """The soak is over before its time; the message says why."""


@dataclass
class Soak:
    """What has happened so far, and how large the process was each time that everything was at rest."""

    server: ApiServer
    cloud: Clouded
    process: Provisioner
    begun: float = field(default_factory=time.monotonic)
    number: int = 0
    waits_for: str = "the first round"
    told_at: float = 0.0
    lives: int = 0
    leaks: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    sizes: list[dict[str, int]] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        """Since it began."""
        return (time.monotonic() - self.begun) / 60

    def round(self) -> None:
        """Ten Machines: two are given up at once, one gets no pool, one is taken away; faults meet them on the way."""
        self.number = number = self.number + 1
        chance = random.Random(number)
        names = [f"s{number}x{each}" for each in range(AT_ONCE)]
        faults = self.cloud.azure.stand_in.faults
        faults.add(Fault(request="put", path=f"/{names[0]}$", fails=SUBNET, times=1))
        self._strike(chance, "put", "get", "list")
        for name in names:
            self._ask_for(name)
        for name in names[-2:]:
            self._give_up(name)
        stay = set(names[1:-2])
        self._until(lambda: ready(self.server) >= stay, what="Ready")
        faults.heal()  # the next requests are not the provisioner's
        self._take_away(names[1])
        if number % ROUNDS_BETWEEN_LEAKS == 0:
            self._leak(f"l{number}")
        self._strike(chance, "delete", "get", "list")
        for name in names[:-2]:
            self._give_up(name)
        self._until(lambda: all_gone(self.server), what="gone")
        self._at_rest()

    def _ask_for(self, name: str) -> None:
        def once() -> None:
            if self.server.get(f"{MACHINES}/{name}") is None:
                ask_for(self.server, name)

        surely(once)

    def _give_up(self, name: str) -> None:
        def once() -> None:
            if self.server.get(f"{MACHINES}/{name}") is not None:
                give_up(self.server, name)

        surely(once)

    def collected(self) -> None:
        """What others leaked is."""
        self.cloud.azure.stand_in.faults.heal()
        self._until(lambda: not self.cloud.azure.stand_in.pools.by_name, what="what leaked to be collected")

    def _until(self, reached: Callable[[], bool], *, what: str) -> None:
        """Raises Ended where the process has ended, or with what each Machine and each pool says."""
        self.waits_for = what

        def looked() -> bool:
            if (code := self.process.process.poll()) is not None:
                raise Ended(f"gpu-provisioner ended with exit code {code}; its last words: {self._last_words()}")
            try:
                return reached()
            except OSError as slow:  # of a busy machine: the next look may be answered
                print(f"soak: the API server did not answer: {slow}", file=sys.stderr, flush=True)
                return False

        try:
            eventually(looked, within=PATIENCE, what=what)
        except NotInTime as late:
            pools = {name: pool.state for name, pool in self.cloud.azure.stand_in.pools.by_name.items()}
            raise Ended(f"{late}\n{pools}\n{told(self.server)}\n{self._last_words()}") from late

    def _last_words(self) -> str:
        return "\n".join(map(str, self.process.lines()[-20:])) or "none"

    def _say_how_far(self) -> None:
        """Once a minute."""
        if time.monotonic() - self.told_at < 60:
            return
        self.told_at, own = time.monotonic(), psutil.Process().memory_info().rss // 10**6
        load = os.getloadavg()[0]
        print(
            f"soak: minute {self.minutes:.0f} of {MINUTES:g}, round {self.number}, {self.lives} lives, "
            f"gpu-provisioner {self.sizes[-1]}, this bench {own} MB, load {load:.1f}",
            file=sys.stderr,
            flush=True,
        )

    def _strike(self, chance: random.Random, *kinds: str) -> None:
        """Three of the next requests go wrong."""
        for _ in range(3):
            fault = {**chance.choice(FAULTS), "request": chance.choice(kinds), "times": 1}
            self.cloud.azure.stand_in.faults.add(Fault.model_validate(fault))

    def _take_away(self, name: str) -> None:
        """Somebody else deletes its pool."""
        self.cloud.asked("DELETE", f"{POOLS}/{name}", params={"api-version": "x"}, headers=ANY_TOKEN)

    def _leak(self, name: str) -> None:
        """A pool that bears our tags and has no Machine."""
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        body = agent_pool(a_machine(name=name, uid="nobody"), cluster=CLUSTER, now=long_ago)
        self.cloud.asked("PUT", f"{POOLS}/{name}", params={"api-version": "x"}, headers=ANY_TOKEN, json=body)
        self.leaks += 1

    def _at_rest(self) -> None:
        """What the stand-in remembers is counted and forgotten: only the provisioner is to be measured."""
        history = self.cloud.azure.stand_in.history
        self.seen["pools_made"] += sum((c["method"], c["carried_out"]) == ("PUT", 201) for c in history)
        self.seen["faults_met"] += sum(bool(call["fault"]) for call in history)
        self.seen["calls"] += len(history)
        history.clear()
        self.lives += AT_ONCE
        self.sizes.append(size(self.process))
        self._say_how_far()


@measure("soak.", only_when_named=True)
def soak() -> Iterator[Figure]:
    """Minutes by ``KAITO_SOAK_MINUTES``."""
    with a_server() as (server, directory):
        _a_node_that_stays(server)
        cloud = Clouded(server, {"boot_seconds": 0.3, "throttled": False})
        with cloud.serving() as azure, process_of(server, directory, azure, **QUICK) as process:
            run = Soak(server, cloud, process)
            with _its_end_is_told(run):
                while run.minutes < MINUTES:
                    run.round()
                run.collected()
            yield Figure("soak.minutes", run.minutes, "min")
            yield from _told(run)


@contextmanager
def _its_end_is_told(run: Soak) -> Iterator[None]:
    """Whatever ends it, signals included, is said with when and where, and the provisioner's log is kept."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Ended(f"somebody sent it {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except BaseException as why:
        print(
            f"soak: ENDED after {run.minutes:.1f} of {MINUTES:g} minutes, in round {run.number} ({run.lives} lives), "
            f"while it waited for {run.waits_for}: {type(why).__name__}: {why}\nThe log is {LOG}.",
            file=sys.stderr,
            flush=True,
        )
        raise
    finally:
        LOG.parent.mkdir(exist_ok=True)
        shutil.copy(run.process.log, LOG)
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(run: Soak) -> Iterator[Figure]:
    yield Figure("soak.lives", run.lives, "")
    yield Figure("soak.pools_leaked_by_others", run.leaks, "")
    for what, count in run.seen.items():
        yield Figure(f"soak.{what}", count, "")
    yield Figure("soak.pools_left", len(run.cloud.azure.stand_in.pools.by_name), "")
    yield Figure("soak.nodes_left", len(run.server.ask("GET", NODES)["items"]) - 1, "")
    for what in run.sizes[0]:
        at_first, at_last = _ends([each[what] for each in run.sizes])
        yield Figure(f"soak.{what}_at_the_end", at_last, "", baseline=at_first)


def _ends(sizes: Sequence[int]) -> tuple[float, float]:
    """The medians of the second and of the last tenth: in the first whatever is loaded once is loaded."""
    tenth = max(1, len(sizes) // 10)
    return statistics.median(sizes[tenth : 2 * tenth] or sizes[:1]), statistics.median(sizes[-tenth:])


def _a_node_that_stays(server: ApiServer) -> None:
    """Nothing is collected in a cluster without nodes."""
    server.ask("POST", NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "system"}})
    server.merge(f"{NODES}/system/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
