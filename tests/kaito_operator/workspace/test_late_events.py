"""Two processes, each of which hears of things when it hears of them: never one machine more than is wanted."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaito_operator.plan import Plan
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.plan import plan
from presets.catalog import load_catalog
from tests.kaito_operator.workspace.test_properties import INSTALLATION, clusters, must_not_overbuy, settle, total
from tests.support.model_cluster import ModelCluster
from tests.support.model_kube import Process

pytestmark = [pytest.mark.properties, pytest.mark.money]
CASES = settings(
    max_examples=1000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def planned(seen: Observed, cluster: ModelCluster) -> Plan:
    return plan(seen, cluster.now, catalog=load_catalog(), installation=INSTALLATION)


class Story:
    """A cluster and two processes, of which the second knows of the first only what it hears."""

    def __init__(self, cluster: ModelCluster, loop: asyncio.AbstractEventLoop) -> None:
        self.cluster, self.loop = cluster, loop
        self.processes = [self.started(), self.started()]

    def started(self) -> Process:
        return Process(self.cluster, plan=planned)

    def passes(self, which: int, *, writes: int | None = None) -> None:
        self.processes[which].make_a_pass(self.loop, writes=writes)

    def killed(self, which: int, writes: int) -> None:
        self.passes(which, writes=writes)
        self.processes[which] = self.started()

    def taken_away(self) -> None:
        """A Machine goes at once and altogether, as Karpenter takes a claim that it cannot launch."""
        found = self.cluster.all("Machine")
        if found:
            del self.cluster.objects["Machine", "", found[0]["metadata"]["name"]]


ACTIONS: dict[str, Callable[[Story], object]] = {
    "the first makes a pass": lambda s: s.passes(0),
    "the second makes a pass": lambda s: s.passes(1),
    "the first hears everything": lambda s: s.processes[0].hear(),
    "the second hears everything": lambda s: s.processes[1].hear(),
    "the first hears of Workspaces alone": lambda s: s.processes[0].hear(kinds=["Workspace"]),
    "the second hears of Workspaces alone": lambda s: s.processes[1].hear(kinds=["Workspace"]),
    "the second hears of Machines alone": lambda s: s.processes[1].hear(kinds=["Machine"]),
    "the first dies before it writes": lambda s: s.killed(0, 0),
    "the first dies after a write": lambda s: s.killed(0, 1),
    "the first dies after two writes": lambda s: s.killed(0, 2),
    "the first dies after three writes": lambda s: s.killed(0, 3),
    "the provisioner works": lambda s: s.cluster.provision(),
    "somebody deletes a Machine": lambda s: s.cluster.lose("Machine"),
    "a Machine vanishes": Story.taken_away,
    "a node vanishes": lambda s: s.cluster.lose("Node"),
    "the nodes stop": lambda s: s.cluster.set_nodes_ready(False),
    "the nodes come back": lambda s: s.cluster.set_nodes_ready(True),
    "a minute passes": lambda s: s.cluster.later(60),
    "an hour passes": lambda s: s.cluster.later(3600),
}
HISTORIES = st.lists(st.sampled_from(sorted(ACTIONS)), max_size=24)


@CASES
@given(cluster=clusters(), history=HISTORIES)
def test_however_late_events_are_there_are_never_more_machines_than_wanted(
    loop: asyncio.AbstractEventLoop, cluster: ModelCluster, history: list[str]
) -> None:
    story = Story(cluster, loop)
    for action in history:
        ACTIONS[action](story)
        must_not_overbuy(cluster)
    for _ in range(3):
        story.cluster.later(3600)
        settle(cluster)
    buys = bool((cluster.workspace or {})["resource"]["instanceType"])
    assert total(cluster) == ("True", "workspaceReady") or (not buys and total(cluster) == ("False", "TooFewNodes"))


def test_the_cases_are_counted(count_cases: Callable[[str, int], None]) -> None:
    count_cases("late events", CASES.max_examples)
