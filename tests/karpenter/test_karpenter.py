"""A real Karpenter drives our claims: to Ready, through failure, deletion and re-creation. ``make karpenter``."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_operator.handlers import watch
from kaito_operator.kube.client import Kube
from kaito_operator.metrics import Metrics
from kaito_operator.reconciler import Reconciler
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.controller import workspace_controller
from kaito_operator.workspace.observe import Observed
from presets.catalog import load_catalog
from tests.support import control_plane
from tests.support.control_plane import ApiServer
from tests.support.hand_world import HandWorld
from tests.support.karpenter import CLAIMS, NODES, Karpenter, prepared
from tests.support.waiting import soon
from tests.support.workspaces import workspace_of

pytestmark = [pytest.mark.karpenter, pytest.mark.money]
Json = dict[str, Any]
CRD = Path(__file__).parents[2] / "charts/workspace/files/crds/kaito.sh_workspaces.yaml"
SIZE, NOT_OFFERED = "Standard_D2s_v5", "Standard_D4s_v5"
WITHIN = 120.0
REGISTERED = "karpenter.sh/registered"


@pytest.fixture(scope="module")
def karpenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Karpenter]:
    """A control plane of its own, for Karpenter keeps all of it."""
    directory = tmp_path_factory.mktemp("karpenter")
    with control_plane.api_server(directory) as server:
        control_plane.establish(server, yaml.safe_load(CRD.read_text()))
        made = prepared(server, directory, SIZE)
        with made.process():
            yield made


@dataclass
class Scene:
    """One namespace, our operator in NodeClaim mode, and Karpenter."""

    server: ApiServer
    karpenter: Karpenter
    loop: Reconciler[Observed]
    namespace: str

    @property
    def path(self) -> str:
        return f"/apis/kaito.sh/v1alpha1/namespaces/{self.namespace}/workspaces"

    def create(self, **given: Any) -> None:
        self.server.ask("POST", self.path, workspace_of("chat", app=self.namespace, **given))

    def workspace(self) -> Json:
        return self.server.get(f"{self.path}/chat") or {}

    def condition(self, type: str = "NodeClaimReady") -> tuple[str, str, str]:
        conditions = self.workspace().get("status", {}).get("conditions", [])
        found: Json = next((c for c in conditions if c["type"] == type), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def claims(self) -> list[Json]:
        return self.karpenter.claims(self.namespace)

    async def is_ready(self) -> None:
        """Returns when the Workspace is; the world beyond Karpenter is moved by hand."""
        world = HandWorld(self.server, self.namespace)

        def look() -> bool:
            for each in world.all("/apis/apps/v1", "deployments"):
                world.roll_out(each)
            return self.condition("WorkspaceReady")[0] == "True"

        await soon(look, within=WITHIN, what=f"ready: {self.condition('WorkspaceReady')}")


@pytest.fixture
async def scene(karpenter: Karpenter, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Everything runs, until the test is over; then the Workspace is deleted and must leave nothing."""
    namespace = f"k-{abs(hash(request.node.name)) % 10**8}"
    karpenter.server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    named = {
        "KAITO_MODEL_FILES": "baked",
        "KAITO_NODE_PROVISIONER": "nodeclaim",
        "KAITO_NODE_CLASS": f"karpenter.kwok.sh/KWOKNodeClass/{_class(request)}",
    }
    controller = workspace_controller(WorkspaceSettings.model_validate(named), load_catalog())
    kube = await Kube.connect(str(karpenter.server.kubeconfig()))
    loop: Reconciler[Observed] = Reconciler(controller, kube, metrics=Metrics(namespace))
    made = Scene(karpenter.server, karpenter, loop, namespace)
    async with _running(loop, kube, karpenter):
        yield made
        if made.workspace():
            karpenter.server.ask("DELETE", f"{made.path}/chat")
        await soon(lambda: not made.workspace(), within=WITHIN, what="the Workspace is gone")
        assert made.claims() == []
        # A claim that goes while it is launched leaves a Node that never registers: kwok makes it a moment later, and
        # has no sweep for it, as providers with real machines have.
        assert [node for node in karpenter.nodes(namespace) if REGISTERED in node["metadata"]["labels"]] == []
    await kube.close()


def _class(request: pytest.FixtureRequest) -> str:
    marker = request.node.get_closest_marker("node_class")
    return str(marker.args[0]) if marker else "default"


@asynccontextmanager
async def _running(loop: Reconciler[Observed], kube: Kube, karpenter: Karpenter) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(watch(loop.controller, kube, loop.saw, spawned=lambda: None)),
            group.create_task(loop.observe()),
            group.create_task(loop.work()),
            group.create_task(karpenter.play_kubelets()),
        ]
        yield
        for task in tasks:
            task.cancel()


async def test_two_claims_become_ready_nodes_that_the_workspace_holds(scene: Scene) -> None:
    scene.create(count=2)
    await scene.is_ready()
    claims = scene.claims()
    assert [scene.karpenter.ready(claim) for claim in claims] == [True, True]
    assert sorted(c["status"]["nodeName"] for c in claims) == scene.workspace()["status"]["workerNodes"]
    for claim in claims:
        node = scene.server.get(f"{NODES}/{claim['status']['nodeName']}") or {}
        assert node["metadata"]["labels"]["karpenter.sh/capacity-type"] == "on-demand", "spot is cheaper"
        assert node["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
        assert claim["metadata"]["finalizers"] == ["karpenter.sh/termination"], "none of ours"
        assert claim["spec"]["expireAfter"] == "Never"


async def test_a_claim_that_somebody_deletes_is_replaced_under_the_next_name(scene: Scene) -> None:
    scene.create()
    await scene.is_ready()
    (first,) = scene.claims()
    scene.server.ask("DELETE", f"{CLAIMS}/{first['metadata']['name']}")

    def another() -> bool:
        found = scene.claims()
        assert len(found) <= 1
        return (
            bool(found)
            and found[0]["metadata"]["name"] != first["metadata"]["name"]
            and scene.karpenter.ready(found[0])
        )

    await soon(another, within=WITHIN, what="another claim is Ready")
    assert scene.claims()[0]["metadata"]["annotations"]["kaito.sh/attempt"] == "2"
    await scene.is_ready()


async def test_a_size_that_is_not_offered_is_told_given_up_and_not_asked_for_again(scene: Scene) -> None:
    scene.create(instance_type=NOT_OFFERED)
    told = await soon(lambda: _false(scene), within=WITHIN, what="a reason")
    assert told[1] == "LaunchFailed"
    assert "instance type not found" in told[2]
    await soon(lambda: not scene.claims(), within=WITHIN, what="the claim is given up, for it blocks everybody's")
    last = await soon(lambda: _false(scene, "or when the Workspace is changed"), within=WITHIN, what="the last word")
    assert "instance type not found" in last[2]
    (account,) = scene.workspace()["status"]["machines"]
    assert (account["attempt"], account["losses"], account["reason"]) == (2, 1, "LaunchFailed")


@pytest.mark.node_class("absent")
async def test_a_claim_that_karpenter_takes_away_at_once_is_explained_from_its_event(scene: Scene) -> None:
    scene.create()
    told = await soon(lambda: _false(scene, "insufficient capacity"), within=WITHIN, what="the event's words")
    assert told[1] == "AllocationFailed"
    assert "Machine number 2 for its place is asked for at" in told[2]


@pytest.mark.node_class("unready")
async def test_a_class_of_nodes_that_is_not_ready_is_named(scene: Scene) -> None:
    scene.karpenter.node_class("unready", ready=False, message="no subnet of that name")
    scene.create()
    told = await soon(lambda: _false(scene, "no subnet of that name"), within=WITHIN, what="the class's words")
    assert told[1] == "LaunchFailed"
    assert "its node class KWOKNodeClass unready is not Ready" in told[2]


def _false(scene: Scene, words: str = "") -> tuple[str, str, str] | None:
    found = scene.condition()
    return found if found[0] == "False" and words in found[2] else None


async def test_a_workspace_that_is_deleted_while_its_claim_is_launched_leaves_nothing(scene: Scene) -> None:
    scene.create(count=2)
    await soon(lambda: len(scene.claims()) == 2, within=WITHIN, what="two claims")
    scene.server.ask("DELETE", f"{scene.path}/chat")
    await soon(lambda: not scene.workspace(), within=WITHIN, what="gone")
    assert scene.claims() == []
