"""The operator as a process behind a faulty way to the API server: it survives, buys no machine too many, and waits."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import ApiServer
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.hand_world import HandWorld
from tests.support.operator_process import WATCHED, Operator, workspace_operator
from tests.support.stub_world import stub_world
from tests.support.waiting import soon
from tests.support.workspaces import workspace_of

pytestmark = [pytest.mark.controlplane, pytest.mark.faults, pytest.mark.usefixtures("crds")]
Json = dict[str, Any]
WITHIN = 90.0


@dataclass
class Scene:
    """One operator behind the proxy, and a world that works."""

    server: ApiServer
    proxy: FaultProxy
    namespace: str
    directory: Path

    @property
    def path(self) -> str:
        return f"/apis/kaito.sh/v1alpha1/namespaces/{self.namespace}/workspaces"

    def operator(self, **settings: str) -> Any:
        """The next process of the pod."""
        way = self.proxy.kubeconfig(self.directory)
        return workspace_operator(way, self.namespace, self.directory / "log", **settings)

    def create(self, name: str, **given: Any) -> None:
        self.server.ask("POST", self.path, workspace_of(name, **given))

    def status(self, name: str) -> Json:
        found: Json = (self.server.get(f"{self.path}/{name}") or {}).get("status", {})
        return found

    def ready(self, name: str) -> bool:
        conditions = self.status(name).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def machines(self) -> list[str]:
        return [machine["metadata"]["name"] for machine in HandWorld(self.server, self.namespace).machines()]

    async def is_ready(self, name: str) -> None:
        """Returns when the Workspace is."""
        await soon(lambda: self.ready(name), within=WITHIN, what=f"{name} is ready: {self.status(name)}")

    async def poke(self, name: str) -> None:
        """Changes the Workspace, and returns when a pass has seen it."""
        nodes = [f"poke-{len(self.proxy.asked)}"]
        changed = await asyncio.to_thread(
            self.server.merge, f"{self.path}/{name}", {"resource": {"preferredNodes": nodes}}
        )
        wanted = changed["metadata"]["generation"]
        await soon(lambda: self.status(name).get("observedGeneration") == wanted, within=WITHIN, what="a pass")


@pytest.fixture
async def scene(api_server: ApiServer, namespace: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with fault_proxy(api_server) as proxy:
        yield Scene(api_server, proxy, namespace, tmp_path)


@asynccontextmanager
async def _watching(scene: Scene, **settings: str) -> AsyncIterator[Operator]:
    """An operator whose watches are all there."""
    before = len(scene.proxy.watched)
    with scene.operator(**settings) as process:
        await soon(lambda: set(scene.proxy.watched[before:]) >= set(WATCHED), within=WITHIN, what="all watches")
        yield process


@pytest.mark.money
async def test_while_no_event_of_machines_comes_exactly_count_are_bought(scene: Scene) -> None:
    """The lag has no end, which is more than 60 s; upstream made 200 claims with one of ten seconds (kaito #1300)."""
    scene.proxy.hold("machines", "nodes")
    async with _watching(scene) as process:
        scene.create("lag", count=3)
        await soon(lambda: len(scene.machines()) == 3, within=WITHIN, what="three Machines")
        for _ in range(4):
            await scene.poke("lag")
        assert len(scene.machines()) == 3
        process.kill()
    async with _watching(scene):
        for _ in range(4):
            await scene.poke("lag")
        assert len(scene.machines()) == 3
        async with stub_world(scene.server, boot_seconds=0):
            scene.proxy.release()
            await soon(lambda: scene.ready("lag"), within=WITHIN, what="ready once the events come")
        assert len(scene.machines()) == 3


@pytest.mark.money
async def test_while_no_event_of_its_own_comes_a_workspace_is_neither_bought_for_twice_nor_forgotten(
    scene: Scene,
) -> None:
    """Its own status, the Machines and the nodes: nothing of what was written comes back."""
    async with _watching(scene), stub_world(scene.server, boot_seconds=0):
        scene.create("own", count=2)
        await soon(lambda: len(scene.machines()) == 2, within=WITHIN, what="two Machines")
        scene.proxy.hold("workspaces", "machines", "nodes", "deployments", "services")
        for other in ("other-1", "other-2"):
            scene.create(other)
        scene.proxy.release()
        for name in ("own", "other-1", "other-2"):
            await scene.is_ready(name)
        assert len(scene.machines()) == 4


REQUESTS = {
    "finalizer": r"PATCH /apis/kaito.sh/v1alpha1/namespaces/[^/]+/workspaces/[^/]+\?fieldManager=\S+$",
    "look at the Machine": r"GET /apis/karpenter.sh/v1alpha5/machines/ws",
    "Machine": r"PATCH /apis/karpenter.sh/v1alpha5/machines/ws",
    "status": r"PATCH \S+/workspaces/[^/]+/status",
    "Deployment": r"PATCH \S+/deployments/",
    "event": r"POST \S+/events",
}
FAULTS: dict[str, Callable[[str], Fault]] = {
    "409": lambda request: Fault(request, status=409, times=2),
    "422": lambda request: Fault(request, status=422, times=1),
    "429": lambda request: Fault(request, status=429, headers={"Retry-After": "1"}, times=2),
    "500": lambda request: Fault(request, status=500, times=2),
    "503": lambda request: Fault(request, status=503, times=2),
    "reset before": lambda request: Fault(request, reset="before", times=2),
    "reset after": lambda request: Fault(request, reset="after", times=2),
    "truncated": lambda request: Fault(request, cut=40, times=2),
}


async def test_every_fault_of_every_kind_of_request_is_survived_and_nothing_is_made_twice(
    scene: Scene, count_cases: Callable[[str, int], None]
) -> None:
    """A Workspace for each fault, all at once, and one process for all. A Deployment that was refused for good (422) is
    written again after the next resync, for a policy may have changed."""
    start = scene.server.now()
    async with _watching(scene, KAITO_RESYNC_SECONDS="10") as process, stub_world(scene.server, boot_seconds=0):
        names: list[str] = []
        for request in REQUESTS.values():
            for fault in FAULTS.values():
                names.append(f"f{len(names)}")
                scene.proxy.faults.append(fault(request))
        for name in names:
            scene.create(name)
        for name in names:
            await scene.is_ready(name)
        assert process.lives
        assert len(scene.machines()) == len(names)
    assert [fault for fault in scene.proxy.faults if not fault.met] == []
    made = start.created()
    assert sorted(made) == sorted(set(made))
    assert [line for line in process.lines() if "unexpected" in line["msg"]] == []
    count_cases("faults of the API server", len(names))


async def test_a_refusal_that_stays_is_asked_about_less_and_less(scene: Scene) -> None:
    scene.proxy.faults.append(Fault(REQUESTS["Machine"], status=500, times=10**6))
    async with _watching(scene) as process:
        scene.create("refused")

        def waits() -> list[float]:
            told = [line["msg"] for line in process.lines() if "/refused: " in line["msg"]]
            return [float(found[1]) for msg in told if (found := re.search(r"again in ([0-9.]+) s", msg))]

        await soon(lambda: len(waits()) >= 6, within=WITHIN, what="six tries")
        assert len(scene.proxy.requests(REQUESTS["Machine"])) <= len(waits()) + 1, "a try, a wait"
        told = waits()
        pairs = pairwise(told)
        # Twice as long, by a fifth more or less each; told to a tenth of a second.
        assert all(later + 0.05 > (earlier - 0.05) * 2 * 0.8 / 1.2 for earlier, later in pairs), told
        assert told[5] > 10 * told[0], told
        scene.proxy.faults.clear()
        await soon(lambda: len(scene.machines()) == 1, within=WITHIN, what="bought once it is granted")


ERROR_410 = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "reason": "Expired",
    "code": 410,
    "message": "too old",
}
ENDINGS = {
    "410": json.dumps({"type": "ERROR", "object": ERROR_410}).encode(),
    "cut in the middle of a line": b'{"type": "MODIFIED", "object": {"kind',
    "just over": b"",
    "500": json.dumps({"type": "ERROR", "object": {**ERROR_410, "reason": "InternalError", "code": 500}}).encode(),
}


async def test_however_a_watch_ends_what_comes_after_it_is_seen(
    scene: Scene, count_cases: Callable[[str, int], None]
) -> None:
    """By the same process, or by the next one that the kubelet starts: kopf ends where a stream is broken."""
    async with stub_world(scene.server, boot_seconds=0):
        for number, line in enumerate(ENDINGS.values()):
            await _after(scene, line, name=f"after-{number}")
    assert len(scene.machines()) == len(ENDINGS)
    count_cases("ends of a watch", len(ENDINGS))


async def _after(scene: Scene, line: bytes, *, name: str) -> None:
    """The watch ends with this line, then a Workspace is made."""
    async with _watching(scene) as process:
        assert scene.proxy.cut_watches("workspaces", line) >= 1, "those of dead processes may be open still"
        scene.create(name)
        await soon(lambda: not process.lives or scene.ready(name), within=WITHIN, what=f"{line!r}")
        if process.lives:
            return
    async with _watching(scene):
        await scene.is_ready(name)
