"""SIGKILL of the real gpu-provisioner at every write of a Machine's life: one pool up, none left, no second one made.

``tests/support/deaths.py`` says how they die.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_cluster.azure import AzureStandIn
from tests.support.azure import Azure, running
from tests.support.control_plane import ApiServer
from tests.support.deaths import DEATHS, WITHIN, Deaths, way_to_server
from tests.support.held_writes import HeldWrites
from tests.support.joins_as_node import NODES, JoinsAsNode
from tests.support.machines import a_machine
from tests.support.provisioner_process import environment
from tests.support.waiting import soon

pytestmark = [pytest.mark.controlplane, pytest.mark.money, pytest.mark.usefixtures("crds")]

MACHINES = "/apis/karpenter.sh/v1alpha5/machines"
QUICK = {
    "KAITO_POLL_SECONDS": "0.2",
    "KAITO_GONE_SECONDS": "0.2",
    "KAITO_AZURE_REQUESTS_PER_SECOND": "1000",
    "KAITO_REPAIR_SECONDS": "0",
}


@dataclass
class Story:
    """One Machine on a real API server, and the processes that see to it, one after another."""

    server: ApiServer
    azure: Azure
    processes: Deaths
    name: str

    def ask_for_it(self, *, spot: bool = False) -> None:
        made = a_machine(name=self.name)
        if spot:
            asked = {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}
            made["spec"]["requirements"].append(asked)
        meta = {key: made["metadata"][key] for key in ("name", "labels", "annotations")}
        self.server.ask("POST", MACHINES, {**made, "metadata": meta})

    def give_it_up(self) -> None:
        self.server.ask("DELETE", f"{MACHINES}/{self.name}")

    def machine(self) -> dict[str, Any] | None:
        return self.server.get(f"{MACHINES}/{self.name}")

    def condition(self, type: str) -> tuple[str, str]:
        conditions = ((self.machine() or {}).get("status") or {}).get("conditions") or ()
        return next(((c["status"], c["reason"]) for c in conditions if c["type"] == type), ("", ""))

    def ready(self) -> bool:
        return self.condition("Ready")[0] == "True"

    def gone(self) -> bool:
        return self.machine() is None

    def nodes(self) -> list[str]:
        everything = self.server.ask("GET", NODES)["items"]
        return [node["metadata"]["name"] for node in everything if f"-{self.name}-" in node["metadata"]["name"]]

    def delete_node(self) -> None:
        """As ``kubectl delete node``."""
        (name,) = self.nodes()
        self.server.ask("DELETE", f"{NODES}/{name}")

    def node_is_silent(self) -> None:
        """Its kubelet has not been heard of for long."""
        (name,) = self.nodes()
        silent = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-02T03:04:05Z"}
        self.server.merge(f"{NODES}/{name}/status", {"status": {"conditions": [silent]}})

    def pools(self) -> list[str]:
        return list(self.azure.stand_in.pools.by_name)

    def made(self) -> int:
        """How many pools there ever were, whether or not the caller learned of it."""
        calls = self.azure.stand_in.history
        return sum((call["method"], call["carried_out"]) == ("PUT", 201) for call in calls)


@pytest.fixture
async def story(api_server: ApiServer, namespace: str, tmp_path: Path) -> AsyncIterator[Story]:
    writes = HeldWrites()
    async with AsyncExitStack() as held:
        stand_in = AzureStandIn(JoinsAsNode(api_server), boot_seconds=0, throttled=False)
        azure = await held.enter_async_context(running(stand_in))
        kubeconfig = tmp_path / "kubeconfig"
        await held.enter_async_context(way_to_server(writes, api_server, kubeconfig=kubeconfig))
        to_azure = await held.enter_async_context(writes.way_to(azure.url))
        (tmp_path / "token").write_text("x")
        static = {"KAITO_AZURE_STATIC_TOKEN_FILE": str(tmp_path / "token")}
        settings = environment(namespace, endpoint=to_azure, **static, **QUICK)
        arguments = ["gpu-provisioner", "--kubeconfig", str(kubeconfig)]
        processes = Deaths(writes, arguments, settings, tmp_path / "log")
        yield Story(api_server, azure, processes, f"k{namespace.rpartition('-')[2]}")


async def test_killed_at_every_write_of_a_life_it_ends_as_if_undisturbed(
    story: Story, count_cases: Callable[[str, int], None]
) -> None:
    story.ask_for_it()
    await story.processes.dying_at_every_write(story.ready)
    assert (story.pools(), len(story.nodes()), story.made()) == ([story.name], 1, 1)
    story.give_it_up()
    await story.processes.dying_at_every_write(story.gone)
    assert (story.pools(), story.nodes(), story.made()) == ([], [], 1)
    met = {(when, what.split()[0]) for when, what in story.processes.died_at if "agentPools" in what}
    assert met == {(when, method) for when in DEATHS for method in ("PUT", "DELETE")}
    count_cases("provisioner killed at a write", len(story.processes.died_at))


@pytest.mark.parametrize("answer", ["overrides", "conflicts"])
async def test_killed_at_every_write_while_a_creating_pool_is_deleted_it_leaves_none(
    story: Story, answer: str, count_cases: Callable[[str, int], None]
) -> None:
    await story.azure.set(boot_seconds=600, delete_while_creating=answer)
    story.ask_for_it()
    await story.processes.undisturbed(lambda: story.condition("Ready")[1] == "Creating")
    story.give_it_up()
    await story.processes.dying_at_every_write(story.gone)
    assert (story.pools(), story.nodes(), story.made()) == ([], [], 1)
    assert any("/abort" in what for _, what in story.processes.died_at) == (answer == "conflicts")
    count_cases("provisioner killed at a write", len(story.processes.died_at))


async def test_killed_at_every_write_while_a_failed_pool_is_replaced_it_makes_one_and_no_more(
    story: Story, count_cases: Callable[[str, int], None]
) -> None:
    why = {"code": "InsufficientSubnetSize", "message": "no addresses"}
    await story.azure.fault(method="PUT", fails=why, times=1)
    story.ask_for_it()
    await story.processes.undisturbed(lambda: story.condition("MachineLaunched") == ("False", "SubnetFull"))
    await story.processes.dying_at_every_write(story.ready)
    assert (story.pools(), len(story.nodes()), story.made()) == ([story.name], 1, 2)
    count_cases("provisioner killed at a write", len(story.processes.died_at))


async def test_killed_at_every_write_while_a_lost_node_is_replaced_it_makes_one_and_no_more(
    story: Story, count_cases: Callable[[str, int], None]
) -> None:
    story.ask_for_it()
    await story.processes.undisturbed(story.ready)
    pools = story.azure.stand_in.pools
    pools.delete(pools.by_name[story.name])
    await soon(lambda: not story.pools(), within=WITHIN, what="the pool is lost")
    await story.processes.dying_at_every_write(lambda: story.made() == 2 and story.ready())
    assert (story.pools(), len(story.nodes()), story.made()) == ([story.name], 1, 2)
    count_cases("provisioner killed at a write", len(story.processes.died_at))


async def test_killed_at_every_write_while_a_deleted_node_takes_its_machine_with_it_it_leaves_none(
    story: Story, count_cases: Callable[[str, int], None]
) -> None:
    story.ask_for_it()
    await story.processes.undisturbed(story.ready)
    story.delete_node()
    await story.processes.dying_at_every_write(story.gone)
    assert (story.pools(), story.nodes(), story.made()) == ([], [], 1)
    met = {what.split()[0] for _, what in story.processes.died_at if NODES in what}
    assert met == {"PATCH"}  # cordoned, and let go
    count_cases("provisioner killed at a write", len(story.processes.died_at))


@pytest.mark.crash
async def test_killed_at_every_write_while_a_dead_node_is_repaired_it_makes_one_and_no_more(
    story: Story, count_cases: Callable[[str, int], None]
) -> None:
    story.ask_for_it()
    await story.processes.undisturbed(story.ready)
    story.node_is_silent()
    story.processes.settings["KAITO_REPAIR_SECONDS"] = "1"
    await story.processes.dying_at_every_write(lambda: story.made() == 2 and story.ready())
    assert (story.pools(), len(story.nodes()), story.made()) == ([story.name], 1, 2)
    count_cases("provisioner killed at a write", len(story.processes.died_at))


async def test_killed_at_every_write_while_an_evicted_spot_machine_is_replaced_it_makes_one_and_no_more(
    story: Story, count_cases: Callable[[str, int], None]
) -> None:
    story.ask_for_it(spot=True)
    await story.processes.undisturbed(story.ready)
    assert (await story.azure.ask("POST", f"/control/pools/{story.name}/evict"))[0] == 204
    await story.processes.dying_at_every_write(lambda: story.made() == 2 and story.ready())
    assert (story.pools(), len(story.nodes()), story.made()) == ([story.name], 1, 2)
    count_cases("provisioner killed at a write", len(story.processes.died_at))


@pytest.mark.crash
async def test_killed_at_every_write_while_a_lost_node_is_given_up_with_its_machine_it_leaves_none(
    story: Story, count_cases: Callable[[str, int], None]
) -> None:
    """The cloud takes pool and node, and before anything was made good of it somebody deletes the Machine."""
    story.ask_for_it()
    await story.processes.undisturbed(story.ready)
    pools = story.azure.stand_in.pools
    pools.delete(pools.by_name[story.name])
    await soon(lambda: not story.pools(), within=WITHIN, what="the pool is lost")
    story.give_it_up()
    await story.processes.dying_at_every_write(story.gone)
    assert (story.pools(), story.nodes(), story.made()) == ([], [], 1)
    count_cases("provisioner killed at a write", len(story.processes.died_at))
