"""The Workspace controller on a real API server: its writes are taken, leave nothing to do, and harm nobody."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from kaito_operator.api import labels
from kaito_operator.kube.client import Kube
from kaito_operator.metrics import Metrics
from kaito_operator.plan import Key
from kaito_operator.reconciler import Reconciler
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workqueue import Retry
from kaito_operator.workspace.controller import workspace_controller
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.observe import Observed
from presets.catalog import load_catalog
from tests.support.control_plane import ApiServer

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("crds")]
Json = dict[str, Any]
MACHINES = "/apis/karpenter.sh/v1alpha5/machines"


@dataclass(frozen=True)
class Scene:
    """One operator, and a namespace of the test's own. Nobody provisions, schedules or runs anything here."""

    server: ApiServer
    loop: Reconciler[Observed]
    namespace: str

    def path(self, plural: str = "workspaces", name: str = "chat") -> str:
        """Where an object of the namespace is."""
        groups = {"workspaces": "/apis/kaito.sh/v1alpha1", "deployments": "/apis/apps/v1", "services": "/api/v1"}
        return f"{groups[plural]}/namespaces/{self.namespace}/{plural}/{name}"

    def create(self, name: str = "chat", *, size: str = "Standard_D2s_v5", count: int = 1, app: str = "") -> None:
        """A Workspace."""
        manifest = {
            "apiVersion": "kaito.sh/v1alpha1",
            "kind": "Workspace",
            "metadata": {"name": name},
            "resource": {
                "count": count,
                "instanceType": size,
                "labelSelector": {"matchLabels": {"app": app or self.namespace}},
            },
            "inference": {"preset": {"name": "smollm2-135m-instruct"}},
        }
        self.server.ask("POST", self.path(name="").rstrip("/"), manifest)

    def node(self, name: str) -> str:
        """A Ready node that this namespace's Workspaces may use; its path."""
        meta = {"name": name, "labels": {"app": self.namespace, labels.INSTANCE_TYPE: "Standard_D2s_v5"}}
        self.server.ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": meta})
        path = f"/api/v1/nodes/{name}"
        now = "2026-01-02T11:00:00Z"
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": now}
        self.server.merge(f"{path}/status", {"status": {"conditions": [ready]}})
        self.server.merge(path, {"spec": {"taints": None}})  # the API server taints new nodes as not ready
        return path

    async def rest(self, name: str = "chat") -> int:
        """Makes passes until one has nothing to do; how many wrote."""
        await self.loop.resync()
        for wrote in range(20):
            if await self.loop.reconcile(Key(self.namespace, name)) != 0.0:
                return wrote
        raise AssertionError("no rest after 20 passes")

    def status(self, name: str = "chat") -> Json:
        """The status as it is stored."""
        found: Json = (self.server.get(self.path(name=name)) or {})["status"]
        return found

    def condition(self, type: str, name: str = "chat") -> tuple[str, str]:
        """Status and reason of one condition."""
        found = next(c for c in self.status(name)["conditions"] if c["type"] == type)
        return found["status"], found["reason"]

    def machines(self) -> list[Json]:
        """The Machines of this namespace's Workspaces."""
        wanted = f"?labelSelector=kaito.sh%2Fworkspacenamespace%3D{self.namespace}"
        found: list[Json] = self.server.ask("GET", MACHINES + wanted)["items"]
        return found


@pytest.fixture
def scene(api_server: ApiServer, kube: Kube, namespace: str) -> Scene:
    controller = workspace_controller(WorkspaceSettings(KAITO_MODEL_FILES="baked"), load_catalog())
    return Scene(api_server, Reconciler(controller, kube, metrics=Metrics("workspace")), namespace)


async def test_what_is_bought_is_bought_once_and_then_there_is_rest(scene: Scene) -> None:
    scene.create(count=2)
    assert await scene.rest() == 1
    assert len(scene.machines()) == 2
    assert scene.condition("MachineReady") == ("Unknown", "CreateMachinePending")
    assert await scene.rest() == 0


@pytest.mark.money
async def test_a_cluster_without_the_crd_is_told_and_nothing_is_tried(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    """NodeClaims, for the tests' cluster knows Machines."""
    controller = workspace_controller(
        WorkspaceSettings(KAITO_MODEL_FILES="baked", KAITO_NODE_PROVISIONER="nodeclaim"), load_catalog()
    )
    scene = Scene(api_server, Reconciler(controller, kube, metrics=Metrics("claims")), namespace)
    scene.create(count=2)
    await scene.rest()
    assert scene.condition("NodeClaimReady") == ("False", "MachineKindMissing")
    assert scene.condition("WorkspaceReady") == ("False", "MachineKindMissing")
    api_server.ask("DELETE", scene.path())
    await scene.rest()
    assert api_server.get(scene.path()) is None


async def test_a_pass_that_writes_nothing_asks_the_api_server_nothing(scene: Scene) -> None:
    scene.create()
    await scene.rest()
    start = scene.server.now()
    assert await scene.loop.reconcile(Key(scene.namespace, "chat")) != 0.0
    assert start.requests() == []


async def test_own_nodes_are_held_the_workload_is_made_and_nothing_is_left_to_do(scene: Scene) -> None:
    node = scene.node(f"{scene.namespace}-a")
    scene.create(size="")
    await scene.rest()
    held = (scene.server.get(node) or {})["metadata"]["labels"]
    assert (held[labels.WORKSPACE], held[labels.WORKSPACE_NAMESPACE]) == ("chat", scene.namespace)
    assert scene.condition("ResourceReady") == ("True", "workspaceResourceStatusSuccess")
    assert scene.status()["endpoint"] == ""
    assert await scene.rest() == 0
    replicas = {
        "observedGeneration": 1,
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
    }
    scene.server.merge(f"{scene.path('deployments')}/status", {"status": replicas})
    await scene.rest()
    assert scene.condition("WorkspaceReady") == ("True", "workspaceReady")
    address = (scene.server.get(scene.path("services")) or {})["spec"]["clusterIP"]
    assert scene.status()["endpoint"] == f"http://{address}"


def _ports(service: Mapping[str, Any] | None) -> list[tuple[int, int]]:
    return [(port["port"], port["targetPort"]) for port in (service or {})["spec"]["ports"]]


async def test_drift_is_repaired_and_a_deleted_object_comes_back(scene: Scene) -> None:
    scene.node(f"{scene.namespace}-a")
    scene.create(size="")
    await scene.rest()
    bent = [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 6000}]
    scene.server.ask("PATCH", scene.path("services"), bent, content="application/json-patch+json")
    scene.server.merge(scene.path("deployments"), {"spec": {"replicas": 5}})
    await scene.rest()
    assert _ports(scene.server.get(scene.path("services"))) == [(80, 5000), (29500, 29500)]
    assert (scene.server.get(scene.path("deployments")) or {})["spec"]["replicas"] == 1
    scene.server.ask("DELETE", scene.path("deployments"))
    await scene.rest()
    assert scene.server.get(scene.path("deployments")) is not None


async def test_what_others_add_to_our_objects_stays_and_causes_no_writes(scene: Scene) -> None:
    scene.node(f"{scene.namespace}-a")
    scene.create(size="")
    await scene.rest()
    scene.server.merge(
        scene.path("services"), {"metadata": {"labels": {"theirs": "yes"}}, "spec": {"sessionAffinity": "ClientIP"}}
    )
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "mesh", "image": "mesh:1"}]}}}}
    apps = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat"}, **sidecar}
    scene.server.apply(scene.path("deployments"), apps)
    assert await scene.rest() <= 1  # the new generation of the Deployment may be told of
    containers = (scene.server.get(scene.path("deployments")) or {})["spec"]["template"]["spec"]["containers"]
    assert sorted(c["name"] for c in containers) == ["inference", "mesh"]


async def test_the_load_balancer_comes_and_goes_with_its_annotation(scene: Scene) -> None:
    scene.node(f"{scene.namespace}-a")
    scene.create(size="")
    await scene.rest()
    for says, type in (("true", "LoadBalancer"), (None, "ClusterIP")):
        scene.server.merge(scene.path(), {"metadata": {"annotations": {"kaito.sh/enablelb": says}}})
        await scene.rest()
        assert (scene.server.get(scene.path("services")) or {})["spec"]["type"] == type
    assert await scene.rest() == 0


@pytest.mark.money
async def test_a_foreign_object_that_no_watch_shows_is_found_named_and_not_touched(scene: Scene) -> None:
    scene.node(f"{scene.namespace}-a")
    theirs = {"metadata": {"name": "chat"}, "spec": {"ports": [{"port": 1}], "selector": {"app": "theirs"}}}
    before = scene.server.ask("POST", scene.path("services", "").rstrip("/"), theirs)
    scene.create(size="")
    await scene.loop.resync()
    with pytest.raises(Retry, match="exists already"):
        await scene.loop.reconcile(Key(scene.namespace, "chat"))
    assert await scene.loop.reconcile(Key(scene.namespace, "chat")) == 0.0
    assert scene.condition("InferenceReady") == ("False", "NameTaken")
    assert scene.server.get(scene.path("services")) == before


SOMEBODYS: Json = {
    "services": {"ports": [{"port": 1}], "selector": {"app": "theirs"}},
    "deployments": {
        "selector": {"matchLabels": {"app": "theirs"}},
        "template": {
            "metadata": {"labels": {"app": "theirs"}},
            "spec": {"containers": [{"name": "theirs", "image": "theirs"}]},
        },
    },
}


@pytest.mark.money
@pytest.mark.parametrize("plural", SOMEBODYS)
async def test_no_machine_is_bought_for_a_name_that_others_have(scene: Scene, plural: str) -> None:
    theirs = {"metadata": {"name": "chat"}, "spec": SOMEBODYS[plural]}
    before = scene.server.ask("POST", scene.path(plural, "").rstrip("/"), theirs)
    scene.create()
    assert await scene.rest() == 1, "the status alone is written"
    assert (scene.machines(), scene.server.get(scene.path(plural))) == ([], before)
    assert scene.condition("WorkspaceReady") == ("False", "NameTaken")
    scene.server.ask("DELETE", scene.path(plural))
    await scene.rest()
    assert len(scene.machines()) == 1
    assert scene.condition("MachineReady") == ("Unknown", "CreateMachinePending")


@pytest.mark.money
async def test_who_may_not_look_whether_a_name_is_free_buys_nothing(scene: Scene) -> None:
    scene.create()
    stranger = await Kube.connect(str(scene.server.kubeconfig("stranger")))
    rival = Reconciler(scene.loop.controller, stranger, metrics=Metrics("stranger"))
    rival.mirror.put(scene.server.get(scene.path()) or {})
    with pytest.raises(Retry, match="forbidden"):
        await rival.reconcile(Key(scene.namespace, "chat"))
    await stranger.close()
    assert scene.machines() == []


@pytest.mark.money
async def test_two_workspaces_that_see_the_same_free_node_do_not_both_get_it(scene: Scene, kube: Kube) -> None:
    """Both plan on the same view. The second write is refused, for the node is not the one that was seen any more."""
    node = scene.node(f"{scene.namespace}-a")
    scene.create("first", size="")
    scene.create("second", size="")
    rival = Reconciler(scene.loop.controller, kube, metrics=Metrics("rival"))
    await scene.loop.resync()
    await rival.resync()
    await scene.loop.reconcile(Key(scene.namespace, "first"))
    with pytest.raises(Retry, match="409"):
        await rival.reconcile(Key(scene.namespace, "second"))
    assert (scene.server.get(node) or {})["metadata"]["labels"][labels.WORKSPACE] == "first"
    await scene.rest("second")
    assert scene.condition("ResourceReady", "second") == ("False", "TooFewNodes")


async def test_a_deleted_workspace_gives_back_its_node_and_goes(scene: Scene) -> None:
    node = scene.node(f"{scene.namespace}-a")
    scene.create(size="")
    await scene.rest()
    scene.server.ask("DELETE", scene.path())
    await scene.rest()
    assert scene.server.get(scene.path()) is None
    assert scene.server.get(scene.path("deployments")) is None
    assert scene.server.get(scene.path("services")) is None
    assert labels.WORKSPACE not in (scene.server.get(node) or {})["metadata"]["labels"]


@pytest.mark.money
async def test_a_workspace_stays_until_its_machines_are_gone(scene: Scene) -> None:
    scene.create()
    await scene.rest()
    machine = f"{MACHINES}/{scene.machines()[0]['metadata']['name']}"
    scene.server.merge(machine, {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
    scene.server.ask("DELETE", scene.path())
    await scene.rest()
    assert scene.condition("WorkspaceDeleting") == ("True", "workspaceDeleted")
    assert "deletionTimestamp" in (scene.server.get(machine) or {})["metadata"]
    scene.server.merge(machine, {"metadata": {"finalizers": []}})
    await scene.rest()
    assert scene.server.get(scene.path()) is None


@pytest.mark.money
async def test_a_machine_that_the_mirror_does_not_know_is_not_bought_twice(scene: Scene, kube: Kube) -> None:
    scene.create()
    await scene.loop.resync()
    blind = Reconciler(scene.loop.controller, kube, metrics=Metrics("blind"))
    await blind.resync()
    await scene.rest()
    with pytest.raises(Retry):
        await blind.reconcile(Key(scene.namespace, "chat"))
    uid = (scene.server.get(scene.path()) or {})["metadata"]["uid"]
    assert [m["metadata"]["name"] for m in scene.machines()] == [machine_name(uid, slot=0, attempt=1)]


@pytest.mark.badinput
async def test_a_mistake_is_told_and_nothing_is_bought(scene: Scene) -> None:
    scene.create(size="Standard_NC999")
    assert await scene.rest() == 1
    assert scene.condition("WorkspaceReady") == ("False", "UnknownInstanceType")
    assert scene.machines() == []
    assert "finalizers" not in (scene.server.get(scene.path()) or {})["metadata"]
