"""SIGKILL of the real gpu-provisioner amid its writes to Azure: one pool up, none left, and no second one made."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from local_cluster.azure import AzureStandIn
from tests.support.azure import Azure, running
from tests.support.control_plane import ApiServer
from tests.support.joins_as_node import NODES, JoinsAsNode
from tests.support.machines import a_machine
from tests.support.provisioner_process import Provisioner, provisioner
from tests.support.waiting import soon

pytestmark = [pytest.mark.controlplane, pytest.mark.money, pytest.mark.usefixtures("crds")]

MACHINES = "/apis/karpenter.sh/v1alpha5/machines"
HELD = 3.0
"""Seconds for which the stand-in keeps a request in hand while its caller is killed."""
WITHIN = 40.0


@pytest.fixture
async def azure(api_server: ApiServer) -> AsyncIterator[Azure]:
    async with running(AzureStandIn(JoinsAsNode(api_server), boot_seconds=0)) as serving:
        yield serving


class Story:
    """One Machine on a real API server, and the processes that see to it, one after another."""

    def __init__(self, server: ApiServer, azure: Azure, namespace: str, directory: Path, name: str) -> None:
        self.server, self.azure, self.name = server, azure, name
        self._namespace, self._directory = namespace, directory
        (directory / "token").write_text("x")

    @contextmanager
    def process(self) -> Iterator[Provisioner]:
        """The next process of the pod."""
        settings = {
            "KAITO_POLL_SECONDS": "0.3",
            "KAITO_GONE_SECONDS": "0.3",
            "KAITO_AZURE_REQUESTS_PER_SECOND": "100",
            "KAITO_AZURE_STATIC_TOKEN_FILE": str(self._directory / "token"),
        }
        log = self._directory / "log"
        with provisioner(self.server, self._namespace, log, endpoint=self.azure.url, **settings) as process:
            yield process

    def ask_for_it(self) -> None:
        made = a_machine(name=self.name)
        meta = {key: made["metadata"][key] for key in ("name", "labels", "annotations")}
        self.server.ask("POST", MACHINES, {**made, "metadata": meta})

    def give_it_up(self) -> None:
        self.server.ask("DELETE", f"{MACHINES}/{self.name}")

    def machine(self) -> dict[str, Any] | None:
        return self.server.get(f"{MACHINES}/{self.name}")

    def ready(self) -> bool:
        conditions = ((self.machine() or {}).get("status") or {}).get("conditions") or ()
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def nodes(self) -> list[str]:
        everything = self.server.ask("GET", NODES)["items"]
        return [node["metadata"]["name"] for node in everything if f"-{self.name}-" in node["metadata"]["name"]]

    def writes(self, method: str, status: int) -> int:
        """How many requests of the method came to this, whether or not the caller learned of it."""
        calls = self.azure.stand_in.history
        return sum((call["method"], call["carried_out"]) == (method, status) for call in calls)

    async def killed_amid(self, request: str, *, after_commit: bool) -> None:
        """A process that dies while Azure has its request in hand, done or not."""
        fault = {"after_commit": True} if after_commit else {"status": 503}
        await self.azure.fault(request=request, delay=HELD, times=1, **fault)
        before = len(self.azure.stand_in.history)

        def in_hand() -> bool:
            calls = self.azure.stand_in.history[before:]
            return any(call["fault"] and bool(call["carried_out"]) == after_commit for call in calls)

        with self.process() as process:
            await soon(in_hand, within=WITHIN, what=f"{request} is in hand")
            process.kill()
        await self.azure.heal()


@pytest.mark.parametrize("after_commit", [False, True], ids=["before it is done", "before its answer comes"])
async def test_killed_amid_create_and_amid_delete_it_ends_as_if_undisturbed(
    api_server: ApiServer, azure: Azure, namespace: str, tmp_path: Path, after_commit: bool
) -> None:
    story = Story(api_server, azure, namespace, tmp_path, "k1" if after_commit else "k0")
    story.ask_for_it()
    await story.killed_amid("put", after_commit=after_commit)
    assert list(azure.stand_in.pools.by_name) == ([story.name] if after_commit else [])
    with story.process():
        await soon(story.ready, within=WITHIN, what="ready")
        assert (list(azure.stand_in.pools.by_name), len(story.nodes())) == ([story.name], 1)

    story.give_it_up()
    await story.killed_amid("delete", after_commit=after_commit)
    with story.process():
        await soon(lambda: story.machine() is None, within=WITHIN, what="gone")
    assert (azure.stand_in.pools.by_name, story.nodes()) == ({}, [])
    assert (story.writes("PUT", 201), story.writes("DELETE", 202)) == (1, 1)
    assert all(call["carried_out"] in (0, 201) for call in azure.stand_in.history if call["method"] == "PUT")
