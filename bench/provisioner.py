"""gpu-provisioner on a real API server and Azure's stand-in, throttled as Azure is: time, calls, memory."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.figures import Figure, measure
from bench.provisioner_scene import Clouded, a_server, all_gone, ask_for, give_up, process_of, ready, size
from tests.support.control_plane import ApiServer
from tests.support.joins_as_node import NODES
from tests.support.waiting import eventually

PATIENCE = 900.0
CHURN_SECONDS, CHURN_MACHINES = 60.0, 10
LIVES_BEFORE_IT_COUNTS = 20
"""After so many lives whatever is loaded once is loaded: growth is measured from there."""


@measure("provisioner.50.")
def fifty_at_once() -> Iterator[Figure]:
    """Whose machines boot in 5 s."""
    with a_server() as (server, directory):
        yield from _at_once(server, directory, 50)


@measure("provisioner.100.")
def a_hundred_at_once() -> Iterator[Figure]:
    """As many as a cluster has pools."""
    with a_server() as (server, directory):
        yield from _at_once(server, directory, 100)


@measure("provisioner.churn.")
def churn() -> Iterator[Figure]:
    """A minute of coming and going, time sped up."""
    with a_server() as (server, directory):
        yield from _churn(server, directory)


def _at_once(server: ApiServer, directory: Path, count: int) -> Iterator[Figure]:
    name, names = f"provisioner.{count}", [f"b{count}x{number}" for number in range(count)]
    with (
        Clouded(server, {"boot_seconds": 5.0}).serving() as azure,
        process_of(server, directory, azure, KAITO_MOST_POOLS="100") as process,
    ):
        history = azure.stand_in.history
        asked = time.monotonic()
        for each in names:
            ask_for(server, each)
        eventually(lambda: len(ready(server)) == count, within=PATIENCE, what=f"{count} Machines are Ready")
        yield Figure(f"{name}.last_ready_s", time.monotonic() - asked, "s")
        yield from _calls(f"{name}.up", history, count)
        history.clear()
        deleted = time.monotonic()
        for each in names:
            give_up(server, each)
        eventually(lambda: all_gone(server), within=PATIENCE, what="all are gone")
        yield Figure(f"{name}.last_gone_s", time.monotonic() - deleted, "s")
        yield from _calls(f"{name}.down", history, count)
        yield Figure(f"{name}.rss_mb", size(process)["rss_kb"] / 1000, "MB")
        yield Figure(f"{name}.pools_left", len(azure.stand_in.pools.by_name), "")


def _calls(name: str, history: list[dict[str, Any]], count: int) -> Iterator[Figure]:
    """Calls a Machine by class, those that were throttled, and pools made."""
    calls = list(history)
    for kind, number in sorted(Counter(call["class"] for call in calls).items()):
        yield Figure(f"{name}.{kind}_per_machine", number / count, "")
    yield Figure(f"{name}.throttled", sum(call["status"] == 429 for call in calls), "")
    yield Figure(f"{name}.pools_made", sum((c["method"], c["carried_out"]) == ("PUT", 201) for c in calls), "")


def _churn(server: ApiServer, directory: Path) -> Iterator[Figure]:
    """Machines come and go, time sped up; what is left of them at the end, and how the process has grown."""
    quick = {
        "KAITO_POLL_SECONDS": "0.3",
        "KAITO_GONE_SECONDS": "0.3",
        "KAITO_CREATES_PER_10_MINUTES": "100000",
        "KAITO_AZURE_REQUESTS_PER_SECOND": "1000",
    }
    with (
        Clouded(server, {"boot_seconds": 0.1, "throttled": False}).serving() as azure,
        process_of(server, directory, azure, **quick) as process,
    ):
        lives, begun, deadline = 0, dict[str, int](), time.monotonic() + CHURN_SECONDS
        while time.monotonic() < deadline or len(begun) < 3:
            lives = _lived(server, lives)
            if lives >= LIVES_BEFORE_IT_COUNTS and not begun:
                begun = size(process)
        ended = size(process)
        yield Figure("provisioner.churn.lives", lives, "")
        made = sum((c["method"], c["carried_out"]) == ("PUT", 201) for c in azure.stand_in.history)
        yield Figure("provisioner.churn.pools_made", made, "")
        yield Figure("provisioner.churn.pools_left", len(azure.stand_in.pools.by_name), "")
        yield Figure("provisioner.churn.nodes_left", len(server.ask("GET", NODES)["items"]), "")
        for what, before in begun.items():
            yield Figure(f"provisioner.churn.grown_{what}", ended[what] - before, "")


def _lived(server: ApiServer, before: int) -> int:
    """A handful of Machines from wish to end; how many there have been by now."""
    names = [f"c{before + number}" for number in range(CHURN_MACHINES)]
    for name in names:
        ask_for(server, name)
    eventually(lambda: len(ready(server)) == len(names), within=PATIENCE, what="they are Ready")
    for name in names:
        give_up(server, name)
    eventually(lambda: all_gone(server), within=PATIENCE, what="they are gone")
    return before + len(names)
