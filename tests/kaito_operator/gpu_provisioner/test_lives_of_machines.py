"""Whole lives of Machines on a real API server and Azure's stand-in, with a crash at every write on the way."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kaito_operator.api import crd
from kaito_operator.api.labels import TERMINATION_FINALIZER
from kaito_operator.gpu_provisioner.azure import AgentPools, connect
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.controller import provisioner_controller
from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.gpu_provisioner.observe import Observed
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Conflict
from kaito_operator.metrics import Metrics
from kaito_operator.plan import Key, Ref
from kaito_operator.reconciler import Reconciler
from kaito_operator.settings import ProvisionerSettings
from kaito_operator.workqueue import Retry
from local_cluster.azure import AzureStandIn
from tests.support.azure import Azure, running
from tests.support.control_plane import ApiServer, establish, withdraw
from tests.support.joins_as_node import NODES, JoinsAsNode
from tests.support.machines import a_claim, a_machine

pytestmark = [pytest.mark.controlplane, pytest.mark.money, pytest.mark.usefixtures("crds")]

MACHINES = "/apis/karpenter.sh/v1alpha5/machines"
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
ROUND_SECONDS, IN_TIME = 10, 120.0
MOST_WRITES, MOST_WRITES_OF_A_DELETION, MOST_WRITES_OF_A_REPLACEMENT, MOST_WRITES_OF_A_LOSS = 21, 7, 5, 7
MOST_WRITES_OF_A_DELETED_NODE = 9
"""A life without faults takes no more of them, questions whether we still lead included."""
_numbers = itertools.count(1)


class Crash(Exception):
    """The process ends here."""


@dataclass
class Doom:
    """Ends the process at its nth write, wherever that goes: before it is sent, or before its answer is read."""

    nth: int = 0
    answered: bool = False
    of: str = ""
    """The resource whose writes count; all, if empty. Before it is sent a write is of none."""
    writes: int = 0

    def sending(self, *_: object) -> bool:
        if not self.answered:
            self._counted()
        return True

    def answer(self, verb: str, resource: str = "", *_: object) -> None:
        if self.answered and verb not in ("GET", "LIST") and self.of in ("", resource):
            self._counted()

    def _counted(self) -> None:
        self.writes += 1
        if self.writes == self.nth:
            raise Crash


@dataclass
class Watched:
    """The real cloud; a create without our finalizer on the live Machine is a failure of the test."""

    cloud: AgentPools
    doom: Doom
    server: ApiServer
    objects: str

    async def identify(self) -> None:
        await self.cloud.identify()

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        live = await asyncio.to_thread(self.server.get, f"{self.objects}/{name}")
        assert live is not None
        assert TERMINATION_FINALIZER in live["metadata"]["finalizers"]
        self.doom.sending()
        made = await self.cloud.create(name, wanted)
        self.doom.answer("PUT")
        return made

    async def delete(self, name: str, *, etag: str) -> None:
        self.doom.sending()
        await self.cloud.delete(name, etag=etag)
        self.doom.answer("DELETE")

    async def abort(self, name: str) -> None:
        await self.cloud.abort(name)

    async def get(self, name: str) -> AgentPool | None:
        return await self.cloud.get(name)

    async def list(self) -> list[AgentPool]:
        return await self.cloud.list()

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        return await self.cloud.outlook(wanted)

    async def close(self) -> None:
        await self.cloud.close()


@dataclass
class Process:
    """One gpu-provisioner, whose rounds are made by hand: LIST, follow, and one pass."""

    kube: Kube
    loop: Reconciler[Observed]
    pools: Pools

    async def round(self, name: str) -> float | None:
        await self.loop.resync()
        await self.pools.follow_once(lambda key: None, self.loop.mirror)
        try:
            return await self.loop.reconcile(Key("", name))
        except Retry:
            return 0.0


@dataclass
class Scene:
    """The API server, the cloud, the time, and the Machine the test is about."""

    server: ApiServer
    azure: Azure
    settings: ProvisionerSettings
    name: str
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    processes: list[Process] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{self.objects}/{self.name}"

    @property
    def objects(self) -> str:
        return CLAIMS if self.settings.objects == "nodeclaims" else MACHINES

    async def started(self, doom: Doom | None = None) -> Process:
        """A process that remembers nothing."""
        doom = doom or Doom()
        kube = await Kube.connect(
            str(self.server.kubeconfig()), field_manager="gpu-provisioner", may_write=doom.sending, counted=doom.answer
        )
        cloud = Watched(connect(self.settings), doom, self.server, self.objects)
        controller = provisioner_controller(self.settings, cloud, clock=lambda: self.now)
        assert isinstance(controller.cloud, Pools)
        loop = Reconciler(controller, kube, metrics=Metrics("gpu-provisioner"), clock=lambda: self.now)
        process = Process(kube, loop, controller.cloud)
        self.processes.append(process)
        return process

    def ask_for_it(self, *, spot: bool = False, **spec: Any) -> None:
        made = a_machine(name=self.name) if self.objects == MACHINES else a_claim(name=self.name)
        made["spec"].update(spec)
        if spot:
            asked = {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}
            made["spec"]["requirements"].append(asked)
        meta = {key: made["metadata"][key] for key in ("name", "labels", "annotations")}
        self.server.ask("POST", self.objects, {**made, "metadata": meta})

    def give_it_up(self) -> None:
        self.server.ask("DELETE", self.path)

    def machine(self) -> dict[str, Any] | None:
        return self.server.get(self.path)

    def condition(self, type: str) -> tuple[str, str]:
        conditions = ((self.machine() or {}).get("status") or {}).get("conditions") or []
        return next(((c["status"], c["reason"]) for c in conditions if c["type"] == type), ("", ""))

    def told(self) -> str:
        """What Ready says."""
        conditions = ((self.machine() or {}).get("status") or {}).get("conditions") or []
        return next((c["message"] for c in conditions if c["type"] == "Ready"), "")

    def events(self) -> list[dict[str, Any]]:
        """Those about the Machine."""
        everything = self.server.ask("GET", "/api/v1/namespaces/default/events")["items"]
        return [event for event in everything if event["involvedObject"]["name"] == self.name]

    def ready(self) -> bool:
        return self.condition("Ready")[0] == "True"

    def gone(self) -> bool:
        return self.machine() is None

    def nodes(self) -> list[str]:
        return [
            n["metadata"]["name"] for n in self.server.ask("GET", NODES)["items"] if self.name in n["metadata"]["name"]
        ]

    def node(self) -> dict[str, Any]:
        """The metadata of the one node."""
        (name,) = self.nodes()
        found: dict[str, Any] = self.server.ask("GET", f"{NODES}/{name}")["metadata"]
        return found

    def node_uid(self) -> str:
        return str(self.node()["uid"])

    def strip_node(self) -> None:
        """As ``kubectl edit``: nobody owns the node any more."""
        self.server.merge(f"{NODES}/{self.node()['name']}", {"metadata": {"ownerReferences": None}})

    def delete_node(self) -> None:
        """As ``kubectl delete node``."""
        self.server.ask("DELETE", f"{NODES}/{self.node()['name']}")

    def left_in_cloud(self) -> list[str]:
        return sorted(self.azure.stand_in.pools.by_name)

    def creates(self) -> list[int]:
        """The answers to all PUTs; 201 is a pool that is paid for."""
        return [status for _, status in self.azure.calls("PUT")]

    async def cloud_takes_pool_and_node(self) -> None:
        """As where somebody deletes the pool by hand. Our finalizer keeps the Node."""
        pools = self.azure.stand_in.pools
        pools.delete(pools.by_name[self.name])
        await pools.by_name[self.name].operation.work  # type: ignore[misc]  # it has just begun

    async def lived(self, *processes: Process, until: Callable[[], bool]) -> None:
        """Rounds of each process in turn, ten seconds apart on their clock, until that is so."""
        deadline = time.monotonic() + IN_TIME
        while not await asyncio.to_thread(until):
            assert time.monotonic() < deadline, (until.__name__, self.machine(), self.azure.calls())
            for process in processes:
                await process.round(self.name)
            self.now += timedelta(seconds=ROUND_SECONDS)


@pytest.fixture
async def claims(scene: Scene) -> AsyncIterator[Scene]:
    """The scene with NodeClaims in place of Machines."""
    definition = crd.definition(crd.NODECLAIM)
    await asyncio.to_thread(establish, scene.server, definition)
    scene.settings = scene.settings.model_copy(update={"objects": "nodeclaims"})
    yield scene
    await asyncio.to_thread(withdraw, scene.server, definition)


@pytest.fixture
async def scene(api_server: ApiServer, tmp_path: Path) -> AsyncIterator[Scene]:
    async with running(AzureStandIn(JoinsAsNode(api_server), boot_seconds=0, throttled=False)) as azure:
        settings = azure.settings(tmp_path / "token", gone_seconds=30, launch_seconds=300, registration_seconds=300)
        scene = Scene(api_server, azure, settings, f"m{next(_numbers)}")
        yield scene
        for process in scene.processes:
            await process.kube.close()
            await process.pools.close()


async def test_a_life_begins_with_one_pool_and_ends_with_nothing_left(scene: Scene) -> None:
    scene.ask_for_it()
    counting = Doom()
    process = await scene.started(counting)
    await scene.lived(process, until=scene.ready)
    machine = scene.machine()
    assert machine is not None
    (node,) = scene.nodes()
    assert machine["status"]["nodeName"] == node
    assert machine["status"]["providerID"].endswith(f"/aks-{scene.name}-{node.split('-')[2]}-vmss/virtualMachines/0")
    assert machine["status"]["capacity"] == {"cpu": "12", "memory": "220Gi"}
    assert machine["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "Standard_NC12s_v3"
    owned = scene.server.ask("GET", f"{NODES}/{node}")["metadata"]
    assert (owned["labels"]["karpenter.sh/initialized"], owned["ownerReferences"][0]["name"]) == ("true", scene.name)
    assert owned["finalizers"] == [TERMINATION_FINALIZER]

    while await process.round(scene.name) is not None:
        pass
    rest, calls = scene.server.now(), len(scene.azure.calls())
    for _ in range(3):
        assert await process.round(scene.name) is None
    assert (rest.writes(), len(scene.azure.calls())) == ([], calls)

    before = counting.writes
    scene.give_it_up()
    await scene.lived(process, until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])
    assert counted(process) == {
        "nodeclaims_created_total": 1,
        "nodeclaims_terminated_total": 1,
        "nodeclaims_termination_duration_seconds_count": 1,
        "nodes_created_total": 1,
        "nodes_drained_total": 1,
        "nodes_lifetime_duration_seconds_count": 1,
        "nodes_terminated_total": 1,
    }
    assert counting.writes <= MOST_WRITES
    assert counting.writes - before <= MOST_WRITES_OF_A_DELETION


def counted(process: Process) -> dict[str, float]:
    """What moved of Karpenter's counts of Machines and nodes."""
    registry = process.loop.controller.registry
    assert registry is not None
    samples = (sample for metric in registry.collect() for sample in metric.samples if sample.value)
    counts = {s.name.removeprefix("karpenter_"): s.value for s in samples if s.name.endswith(("_total", "_count"))}
    return {name: count for name, count in counts.items() if name.startswith("node") and "instance" not in name}


@pytest.mark.parametrize("answered", [False, True], ids=["before it is sent", "before its answer is read"])
@pytest.mark.parametrize("nth", range(1, MOST_WRITES + 1))
async def test_a_crash_at_any_write_of_a_life_is_made_good(
    scene: Scene, nth: int, answered: bool, count_cases: Callable[[str, int], None]
) -> None:
    doom = Doom(nth, answered)
    scene.ask_for_it()
    process = await _outlived(scene, await scene.started(doom), until=scene.ready)
    assert scene.left_in_cloud() == [scene.name]
    scene.give_it_up()
    await _outlived(scene, process, until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])
    count_cases("provisioner crashes", int(doom.writes == nth))


@pytest.mark.parametrize("answered", [False, True], ids=["before it is sent", "before its answer is read"])
@pytest.mark.parametrize("nth", range(1, MOST_WRITES_OF_A_DELETION + 1))
async def test_a_crash_at_any_write_while_a_creating_pool_is_deleted_leaves_no_pool(
    scene: Scene, nth: int, answered: bool, count_cases: Callable[[str, int], None]
) -> None:
    await scene.azure.ask("PUT", "/control/boot", json={"seconds": 600})
    scene.ask_for_it()
    await scene.lived(await scene.started(), until=lambda: scene.condition("Ready")[1] == "Creating")
    scene.give_it_up()
    doom = Doom(nth, answered)
    await _outlived(scene, await scene.started(doom), until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])
    count_cases("provisioner crashes", int(doom.writes == nth))


@pytest.mark.parametrize("answered", [False, True], ids=["before it is sent", "before its answer is read"])
@pytest.mark.parametrize(
    ("lost", "nth"),
    [
        *(("a failed pool", nth) for nth in range(1, MOST_WRITES_OF_A_REPLACEMENT + 1)),
        *(("a lost node", nth) for nth in range(1, MOST_WRITES_OF_A_LOSS + 1)),
        *(("a lost node that nobody owns", nth) for nth in range(1, MOST_WRITES_OF_A_LOSS + 1)),
    ],
)
async def test_a_crash_at_any_write_while_a_pool_is_replaced_makes_one_and_no_more(
    scene: Scene, nth: int, answered: bool, lost: str, count_cases: Callable[[str, int], None]
) -> None:
    if lost == "a failed pool":
        why = {"code": "InsufficientSubnetSize", "message": "no addresses"}
        await scene.azure.fault(method="PUT", fails=why, times=1)
    scene.ask_for_it()
    process = await scene.started()
    if lost != "a failed pool":
        await scene.lived(process, until=scene.ready)
        if lost == "a lost node that nobody owns":
            scene.strip_node()
        await scene.cloud_takes_pool_and_node()
    else:
        await scene.lived(process, until=lambda: scene.condition("MachineLaunched") == ("False", "SubnetFull"))
    doom = Doom(nth, answered)

    def replaced() -> bool:
        """What the status says may be of the time before the crash, so the node is looked for as well."""
        return scene.creates() == [201, 201] and scene.ready() and len(scene.nodes()) == 1

    await _outlived(scene, await scene.started(doom), until=replaced)
    assert (scene.left_in_cloud(), len(scene.nodes()), scene.creates()) == ([scene.name], 1, [201, 201])
    count_cases("provisioner crashes", int(doom.writes == nth))


async def _outlived(scene: Scene, process: Process, *, until: Callable[[], bool]) -> Process:
    """The process that reached it: this one, or the one that was started when it crashed."""
    try:
        await scene.lived(process, until=until)
    except Crash:
        process = await scene.started()
        await scene.lived(process, until=until)
    return process


async def test_two_that_both_believe_to_lead_still_make_one_pool(scene: Scene) -> None:
    scene.ask_for_it()
    both = [await scene.started(), await scene.started()]
    await scene.lived(*both, until=scene.ready)
    assert (scene.left_in_cloud(), scene.creates()) == ([scene.name], [201])
    scene.give_it_up()
    await scene.lived(*both, until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])


async def test_a_pool_that_fails_is_said_to_and_tried_again_when_it_is_gone(scene: Scene) -> None:
    why = {"code": "InsufficientSubnetSize", "message": "no addresses"}
    await scene.azure.fault(method="PUT", fails=why, times=1)
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=lambda: scene.condition("MachineLaunched") == ("False", "SubnetFull"))
    await scene.lived(process, until=scene.ready)
    assert (scene.left_in_cloud(), scene.creates()) == ([scene.name], [201, 201])
    between = [method for method, _ in scene.azure.calls() if method != "GET"]
    assert between == ["PUT", "DELETE", "PUT"]


async def test_a_pool_that_somebody_took_away_is_made_again(scene: Scene) -> None:
    scene.ask_for_it()
    await scene.lived(await scene.started(), until=scene.ready)
    pools = scene.azure.stand_in.pools
    pools.delete(pools.by_name[scene.name])
    await scene.lived(await scene.started(), until=lambda: not scene.ready())
    await scene.lived(scene.processes[-1], until=scene.ready)
    assert (scene.left_in_cloud(), len(scene.nodes()), scene.creates()) == ([scene.name], 1, [201, 201])


DRIVER = {"key": "example.com/driver", "value": "missing", "effect": "NoSchedule"}


async def test_startup_taints_come_with_the_node_and_their_owner_takes_them_off_once(scene: Scene) -> None:
    """Also where the process ends when they have been put on and it has not heard so."""
    scene.ask_for_it(startupTaints=[DRIVER])
    doom = Doom(nth=1, answered=True, of="nodes")
    process = await _outlived(
        scene, await scene.started(doom), until=lambda: scene.condition("Ready")[1] == "StartupTaintsExist"
    )
    assert doom.writes == 1
    for _ in range(3):
        await process.round(scene.name)
    path = f"{NODES}/{scene.nodes()[0]}"
    assert [t["key"] for t in scene.server.ask("GET", path)["spec"]["taints"]] == [DRIVER["key"]]
    assert not scene.ready()
    scene.server.merge(path, {"spec": {"taints": None}})
    process = await _outlived(scene, await scene.started(), until=scene.ready)
    for _ in range(3):
        await process.round(scene.name)
    assert (scene.server.ask("GET", path)["spec"].get("taints"), scene.ready()) == (None, True)


# The node's finalizer


async def test_who_deletes_a_node_empties_it_and_gets_rid_of_machine_and_pool(scene: Scene, namespace: str) -> None:
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    (node,) = scene.nodes()
    pod = _a_pod_on(scene, node, namespace)
    scene.delete_node()
    await scene.lived(process, until=lambda: "web" in scene.told())
    assert [e["message"] for e in scene.events() if e["reason"] == "NodeDeleted"] == [
        f"node {node} is being deleted, and its Machine with it"
    ]
    live = scene.server.ask("GET", f"{NODES}/{node}")
    assert (live["spec"]["unschedulable"], live["metadata"]["finalizers"]) == (True, [TERMINATION_FINALIZER])
    assert scene.left_in_cloud() == [scene.name]  # a budget keeps the pod

    scene.server.ask("DELETE", f"{BUDGETS.format(namespace)}/web")
    await process.round(scene.name)
    scene.server.ask("DELETE", pod, {"gracePeriodSeconds": 0})
    await scene.lived(process, until=lambda: scene.left_in_cloud() == [])
    assert (scene.nodes(), scene.gone()) == ([node], False)  # it goes when the cloud has said so twice
    await scene.lived(process, until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])


@pytest.mark.parametrize("answered", [False, True], ids=["before it is sent", "before its answer is read"])
@pytest.mark.parametrize("nth", range(1, MOST_WRITES_OF_A_DELETED_NODE + 1))
async def test_a_crash_at_any_write_while_a_node_is_deleted_leaves_nothing(
    scene: Scene, nth: int, answered: bool, count_cases: Callable[[str, int], None]
) -> None:
    scene.ask_for_it()
    await scene.lived(await scene.started(), until=scene.ready)
    scene.delete_node()
    doom = Doom(nth, answered)
    await _outlived(scene, await scene.started(doom), until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])
    count_cases("provisioner crashes", int(doom.writes == nth))


async def test_when_the_cloud_takes_pool_and_node_the_machine_stays_and_gets_another(scene: Scene) -> None:
    """The cloud deletes the Node as a person does; who it was, the cloud is asked."""
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    machine, node = scene.machine(), scene.node_uid()
    await scene.cloud_takes_pool_and_node()
    assert "deletionTimestamp" in scene.node()
    await scene.lived(process, until=lambda: scene.creates() == [201, 201] and scene.ready())
    again = scene.machine()
    assert machine is not None
    assert again is not None
    assert (again["metadata"]["uid"], scene.node_uid() != node) == (machine["metadata"]["uid"], True)
    assert scene.left_in_cloud() == [scene.name]


async def test_a_node_whose_owner_somebody_took_off_does_not_hold_up_the_next_pool(scene: Scene) -> None:
    """Two that both believe to lead, one of which remembers nothing: the label alone tells whose it was."""
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    node = scene.node_uid()
    scene.strip_node()
    await scene.cloud_takes_pool_and_node()
    assert "deletionTimestamp" in scene.node()  # it is there, and the finalizer keeps it
    both = (process, await scene.started())
    await scene.lived(*both, until=lambda: scene.creates() == [201, 201] and scene.ready())
    assert (scene.left_in_cloud(), len(scene.nodes()), scene.node_uid() != node) == ([scene.name], 1, True)


async def test_a_node_whose_owner_somebody_took_off_is_claimed_again(scene: Scene) -> None:
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    scene.strip_node()
    machine = scene.machine()
    assert machine is not None
    await scene.lived(process, until=lambda: "ownerReferences" in scene.node())
    assert [owner["uid"] for owner in scene.node()["ownerReferences"]] == [machine["metadata"]["uid"]]


async def test_a_node_whose_owner_somebody_took_off_is_emptied_before_its_pool_goes(
    scene: Scene, namespace: str
) -> None:
    scene.ask_for_it()
    await scene.lived(await scene.started(), until=scene.ready)
    (node,) = scene.nodes()
    pod = _a_pod_on(scene, node, namespace)
    scene.strip_node()
    scene.give_it_up()
    process = await scene.started()  # one that remembers nothing
    await scene.lived(process, until=lambda: "web" in scene.told())
    assert scene.left_in_cloud() == [scene.name]  # a budget keeps the pod
    scene.server.ask("DELETE", f"{BUDGETS.format(namespace)}/web")
    await process.round(scene.name)
    scene.server.ask("DELETE", pod, {"gracePeriodSeconds": 0})
    await scene.lived(process, until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])


async def test_a_node_that_is_no_machine_of_ours_is_nobodys_to_hold(scene: Scene) -> None:
    own = {"metadata": {"name": f"own-{scene.name}", "labels": {"kubernetes.azure.com/agentpool": "userpool"}}}
    scene.server.ask("POST", NODES, own)
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    path = f"{NODES}/own-{scene.name}"
    assert "finalizers" not in scene.server.ask("GET", path)["metadata"]
    scene.server.ask("DELETE", path)
    assert scene.server.get(path) is None


async def test_two_that_both_believe_to_lead_let_one_deleted_node_go_once(scene: Scene) -> None:
    scene.ask_for_it()
    both = [await scene.started(), await scene.started()]
    await scene.lived(*both, until=scene.ready)
    scene.delete_node()
    await scene.lived(*both, until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])
    assert [method for method, _ in scene.azure.calls() if method == "DELETE"] == ["DELETE"]


@pytest.mark.faults
async def test_a_spot_machine_that_azure_takes_back_is_asked_for_again(scene: Scene) -> None:
    scene.ask_for_it(spot=True)
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    node = scene.node_uid()
    pool = scene.azure.stand_in.pools.by_name[scene.name].properties
    assert (pool["scaleSetPriority"], pool["scaleSetEvictionPolicy"]) == ("Spot", "Delete")
    assert (await scene.azure.ask("POST", f"/control/pools/{scene.name}/evict"))[0] == 204
    assert (scene.left_in_cloud(), "deletionTimestamp" in scene.node()) == ([scene.name], True)  # an empty pool stays

    await scene.lived(process, until=lambda: scene.creates() == [201, 201] and scene.ready())
    assert (scene.node_uid() != node, scene.left_in_cloud()) == (True, [scene.name])
    assert [e["reason"] for e in scene.events()].count("SpotEvicted") == 1


async def test_an_identity_that_lost_its_role_holds_up_the_deletion_and_says_so(scene: Scene) -> None:
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    await scene.azure.fault(status=403, body={"error": {"code": "AuthorizationFailed", "message": "no role"}})
    scene.give_it_up()
    await scene.lived(process, until=lambda: scene.condition("Ready")[1] == "Terminating")
    for _ in range(20):
        await process.round(scene.name)
        scene.now += timedelta(seconds=ROUND_SECONDS)
    machine = scene.machine()
    assert machine is not None
    (told,) = [c["message"] for c in machine["status"]["conditions"] if c["type"] == "Ready"]
    assert told == "no role (the identity needs the role Contributor on the cluster)"

    await scene.azure.heal()
    await scene.lived(process, until=scene.gone)
    assert scene.left_in_cloud() == []


PODS, BUDGETS = "/api/v1/namespaces/{}/pods", "/apis/policy/v1/namespaces/{}/poddisruptionbudgets"


def _a_pod_on(scene: Scene, node: str, namespace: str) -> str:
    """A pod that a disruption budget keeps where it is; its path."""
    container = {"name": "c", "image": "i"}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 600}
    scene.server.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}})
    pod = {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec}
    scene.server.ask("POST", PODS.format(namespace), pod)
    path = f"{PODS.format(namespace)}/web"
    running = {"type": "Ready", "status": "True"}
    scene.server.merge(f"{path}/status", {"status": {"phase": "Running", "conditions": [running]}})
    budget = {"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}
    scene.server.ask("POST", BUDGETS.format(namespace), budget)
    return path


async def test_a_node_is_emptied_by_leave_of_the_disruption_budgets_before_its_pool_goes(
    scene: Scene, namespace: str
) -> None:
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    (node,) = scene.nodes()
    pod = _a_pod_on(scene, node, namespace)
    scene.give_it_up()
    await scene.lived(process, until=lambda: "web" in scene.told())
    for _ in range(20):  # a budget has all the time there is
        await process.round(scene.name)
        scene.now += timedelta(seconds=ROUND_SECONDS)
    assert scene.told() == f"failed to drain the node: 1 pod(s) ({namespace}/web) to leave"
    kept = scene.server.ask("GET", pod)
    assert ("deletionTimestamp" in kept["metadata"], scene.left_in_cloud()) == (False, [scene.name])
    live = scene.server.ask("GET", f"{NODES}/{node}")
    assert live["spec"]["unschedulable"] is True
    assert live["metadata"]["labels"]["node.kubernetes.io/exclude-from-external-load-balancers"] == "karpenter"
    assert live["metadata"]["ownerReferences"][0]["name"] == scene.name
    reasons = [e["reason"] for e in scene.events()]
    assert reasons.count("FailedDraining") == 1

    scene.server.ask("DELETE", f"{BUDGETS.format(namespace)}/web")
    await process.round(scene.name)
    leaving = scene.server.ask("GET", pod)
    assert ("deletionTimestamp" in leaving["metadata"], scene.left_in_cloud()) == (True, [scene.name])
    scene.server.ask("DELETE", pod, {"gracePeriodSeconds": 0})  # as its kubelet would, once it has ended
    await scene.lived(process, until=scene.gone)
    assert (scene.left_in_cloud(), scene.nodes(), scene.creates()) == ([], [], [201])


async def test_a_pod_of_another_uid_under_the_same_name_is_not_evicted(scene: Scene, namespace: str) -> None:
    scene.ask_for_it()
    process = await scene.started()
    await scene.lived(process, until=scene.ready)
    (node,) = scene.nodes()
    pod = _a_pod_on(scene, node, namespace)
    scene.server.ask("DELETE", f"{BUDGETS.format(namespace)}/web")
    await process.kube.evict(Ref("v1", "Pod", "web", namespace), uid=scene.server.ask("GET", pod)["metadata"]["uid"])
    with pytest.raises(Conflict, match="UID in the precondition"):
        await process.kube.evict(Ref("v1", "Pod", "web", namespace), uid="another")


async def test_a_claim_has_the_life_of_a_machine_in_the_words_of_karpenter_v1(claims: Scene) -> None:
    claims.ask_for_it()
    process = await claims.started()
    await claims.lived(process, until=lambda: claims.condition("Ready")[1] == "Launching")
    assert claims.condition("Launched") == ("Unknown", "Launching")
    assert claims.condition("Registered") == ("Unknown", "AwaitingReconciliation")
    await claims.lived(process, until=claims.ready)
    claim = claims.machine()
    assert claim is not None
    types = {c["type"]: (c["status"], c["reason"], c["observedGeneration"]) for c in claim["status"]["conditions"]}
    assert types == {step: ("True", step, 1) for step in ("Initialized", "Launched", "Ready", "Registered")}
    (node,) = claims.nodes()
    owner = claims.server.ask("GET", f"{NODES}/{node}")["metadata"]["ownerReferences"][0]
    assert (owner["apiVersion"], owner["kind"], owner["name"]) == ("karpenter.sh/v1", "NodeClaim", claims.name)
    claims.give_it_up()
    await claims.lived(process, until=claims.gone)
    assert (claims.left_in_cloud(), claims.nodes(), claims.creates()) == ([], [], [201])


async def test_when_its_grace_period_ends_a_claim_goes_with_a_pod_that_a_budget_and_do_not_disrupt_keep(
    claims: Scene, namespace: str
) -> None:
    claims.ask_for_it(terminationGracePeriod="5m")
    process = await claims.started()
    await claims.lived(process, until=claims.ready)
    (node,) = claims.nodes()
    pod = _a_pod_on(claims, node, namespace)
    claims.server.merge(pod, {"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}})
    claims.give_it_up()
    begun = claims.now
    while claims.now - begun < timedelta(seconds=120):
        await process.round(claims.name)
        claims.now += timedelta(seconds=ROUND_SECONDS)
    # It would take 600 s to end, and there are 300: it was made to go at once, and is given what is left.
    leaving = claims.server.ask("GET", pod)["metadata"]
    assert 1 <= leaving["deletionGracePeriodSeconds"] <= 300
    assert claims.left_in_cloud() == [claims.name]
    while claims.now - begun < timedelta(seconds=330):
        await process.round(claims.name)
        claims.now += timedelta(seconds=ROUND_SECONDS)
    assert claims.left_in_cloud() == []  # its time is up, and the pod has not ended
    await claims.lived(process, until=claims.gone)
    claims.server.ask("DELETE", pod, {"gracePeriodSeconds": 0})
    assert (claims.nodes(), claims.creates()) == ([], [201])


async def test_a_claim_of_another_provider_is_left_alone(claims: Scene) -> None:
    other = a_claim(name=claims.name, labels={}, node_class=("karpenter.azure.com", "AKSNodeClass"))
    meta = {"name": claims.name}
    claims.server.ask("POST", CLAIMS, {**other, "metadata": meta})
    process = await claims.started()
    before = claims.server.now()
    for _ in range(3):
        assert await process.round(claims.name) is None
    assert (before.writes(), claims.azure.calls()) == ([], [])
