"""What is left over is collected, the third time it is found; and any doubt keeps it."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito_operator.api.conditions import moment
from kaito_operator.api.kinds import NODE
from kaito_operator.gpu_provisioner.agent_pool import owner_tags
from kaito_operator.gpu_provisioner.cloud import AgentPool, CloudError
from kaito_operator.gpu_provisioner.errors import classified
from kaito_operator.gpu_provisioner.garbage import Garbage
from kaito_operator.gpu_provisioner.orphans import held_nodes, left_nodes, left_pools, why_not
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.kube.client import Kube
from kaito_operator.mirror import Mirror
from tests.support.control_plane import ApiServer
from tests.support.machines import a_machine, a_node
from tests.support.record_only import RecordOnlyCloud

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
TAGS = owner_tags(a_machine(), cluster="prod")
POOL = AgentPool("ws0123456789", "Succeeded", etag="e", tags=TAGS, power="Running", asked_at=NOON - timedelta(hours=1))


def left(pool: AgentPool, *uids: str) -> list[AgentPool]:
    return left_pools([pool], set(uids), cluster="prod", now=NOON, grace_seconds=300)


def test_a_pool_of_ours_whose_machine_is_gone_is_left_over() -> None:
    assert left(POOL) == [POOL]
    assert left(POOL, "another-machine") == [POOL]


KEPT: dict[str, AgentPool] = {
    "of another cluster": replace(POOL, tags={**TAGS, "kaito.sh_cluster": "test"}),
    **{f"without the tag {tag}": replace(POOL, tags={k: v for k, v in TAGS.items() if k != tag}) for tag in TAGS},
    "with an empty uid": replace(POOL, tags={**TAGS, "kaito.sh_machine-uid": ""}),
    "without any tags": replace(POOL, tags={}),
    "on its way out": replace(POOL, state="Deleting"),
    "of which nobody knows when it was asked for": replace(POOL, asked_at=None),
    "asked for just now": replace(POOL, asked_at=NOON - timedelta(seconds=299)),
    "asked for in the future": replace(POOL, asked_at=NOON + timedelta(hours=1)),
}


@pytest.mark.parametrize("case", KEPT)
def test_any_doubt_keeps_a_pool(case: str) -> None:
    assert left(KEPT[case]) == []


def test_a_pool_whose_machine_lives_is_kept() -> None:
    assert left(POOL, "machine-uid") == []


def a_left_node(**changes: Any) -> dict[str, Any]:
    node = a_node(ready=False, owner="gone", labels={"karpenter.sh/registered": "true"})
    node["metadata"]["creationTimestamp"] = "2026-01-02T11:00:00Z"
    node["metadata"]["ownerReferences"][0]["kind"] = "Machine"
    node["metadata"].update(changes)
    return node


def left_of(node: dict[str, Any], *, uids: set[str] | None = None, pools: set[str] | None = None) -> bool:
    return bool(left_nodes([node], uids or set(), pools or set(), now=NOON, grace_seconds=300))


def test_a_node_that_we_claimed_for_a_machine_that_is_gone_is_left_over() -> None:
    assert left_of(a_left_node())


def test_any_doubt_keeps_a_node() -> None:
    ready = a_left_node()
    ready["status"]["conditions"][0]["status"] = "True"
    assert not left_of(ready)
    assert not left_of(a_left_node(), uids={"gone"})
    assert not left_of(a_left_node(), pools={"ws0123456789"})
    assert not left_of(a_left_node(creationTimestamp="2026-01-02T11:59:00Z"))
    assert not left_of(a_left_node(labels={"kubernetes.azure.com/agentpool": "ws0123456789"}))
    assert not left_of(a_left_node(ownerReferences=[{"kind": "Cluster", "uid": "gone"}]))
    unknown = a_left_node()
    del unknown["metadata"]["creationTimestamp"]
    assert not left_of(unknown)


@pytest.mark.money
def test_a_deleted_node_that_only_the_finalizer_keeps_for_a_machine_that_is_gone_is_let_go() -> None:
    held = {"deletionTimestamp": "2026-01-02T11:59:00Z", "finalizers": ["karpenter.sh/termination"]}
    node, alive, pool = a_left_node(**held), {"gone"}, {"ws0123456789"}
    assert held_nodes([node], set(), set()) == [node]
    assert held_nodes([node], alive, set()) == held_nodes([node], set(), pool) == []
    assert not left_of(node)
    others = (
        a_left_node(finalizers=held["finalizers"]),
        a_left_node(**held | {"finalizers": ["example.com/theirs"]}),
        a_left_node(**held, ownerReferences=[{"kind": "Cluster", "uid": "gone"}]),
        a_left_node(**held, labels={"kubernetes.azure.com/agentpool": "ws0123456789"}),
    )
    assert held_nodes(others, set(), set()) == []


@pytest.mark.parametrize(("ready", "unready", "well"), [(11, 9, True), (6, 5, False), (0, 0, False), (0, 1, False)])
def test_a_cluster_with_many_unready_nodes_does_not_look_well(ready: int, unready: int, well: bool) -> None:
    nodes = [a_node()] * ready + [a_node(ready=False)] * unready
    assert (why_not([POOL], nodes) == "") == well


def test_a_cluster_that_is_stopped_does_not_look_well() -> None:
    assert why_not([POOL, replace(POOL, name="sys", power="Stopped")], [a_node()]) == "agent pool sys is stopped"


# Every pool there can be, judged by the rule as it is written down

TAG_VALUES = {
    "kaito.sh_cluster": (None, "prod", "test"),
    "kaito.sh_workspace-uid": (None, "", "workspace-uid"),
    "kaito.sh_machine-uid": (None, "", "gone", "alive"),
}
LONG_AGO = NOON - timedelta(seconds=300)
AGES = (None, -60, 0, 299, 300, 3600)


def every_pool() -> Iterator[AgentPool]:
    for values in itertools.product(*TAG_VALUES.values()):
        tags = {tag: value for tag, value in zip(TAG_VALUES, values, strict=True) if value is not None}
        for age, state in itertools.product(AGES, ("Creating", "Succeeded", "Failed", "Deleting")):
            asked = None if age is None else NOON - timedelta(seconds=age)
            yield AgentPool("ws1", state, etag="e", tags=tags, asked_at=asked)


def may_go(pool: AgentPool) -> bool:
    """The money rules M5 and M9 and the grace, word for word."""
    cluster, workspace, machine = (pool.tags.get(tag) for tag in TAG_VALUES)
    ours = cluster == "prod" and workspace is not None and machine == "gone"
    return ours and pool.state != "Deleting" and pool.asked_at is not None and pool.asked_at <= LONG_AGO


MISTAKES: dict[str, Callable[[AgentPool], AgentPool]] = {
    "tags are not looked at": lambda pool: replace(pool, tags={**TAGS, "kaito.sh_machine-uid": "gone"}),
    "one tag is enough": lambda pool: replace(pool, tags={**TAGS, **pool.tags}),
    "whose cluster is not looked at": lambda pool: replace(pool, tags={**pool.tags, "kaito.sh_cluster": "prod"}),
    "a missing time is long ago": lambda pool: replace(pool, asked_at=pool.asked_at or NOON - timedelta(days=1)),
    "there is no grace": lambda pool: replace(pool, asked_at=pool.asked_at and pool.asked_at - timedelta(hours=1)),
    "what goes is not seen to go": lambda pool: replace(pool, state="Succeeded"),
}


def wrong(sees: Callable[[AgentPool], AgentPool]) -> list[AgentPool]:
    """The pools that such a sweeper deletes and should not, or the other way round."""
    pools = list(every_pool())
    return [pool for pool in pools if bool(left(sees(pool), "alive")) != may_go(pool)]


@pytest.mark.money
@pytest.mark.statemodel
def test_of_every_pool_there_can_be_only_those_without_a_doubt_are_left_over(
    count_cases: Callable[[str, int], None],
) -> None:
    assert wrong(lambda pool: pool) == []
    count_cases("statemodel of garbage", len(list(every_pool())))


@pytest.mark.money
@pytest.mark.statemodel
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_seeded_mistake_of_the_sweeper_is_caught(mistake: str) -> None:
    assert wrong(MISTAKES[mistake]) != []


# On a real API server, with a cloud that is only written down


@dataclass
class Scene:
    """The sweeper, its cloud, the cluster and the time."""

    kube: Kube
    cloud: RecordOnlyCloud
    mirror: Mirror = field(default_factory=Mirror)
    now: datetime = NOON

    def sweeper(self, *, most: int = 10) -> Garbage:
        pools = Pools(self.cloud, poll_seconds=20, most_pools=90, creates_per_10_minutes=100, clock=lambda: self.now)
        return Garbage(
            self.cloud,
            pools,
            cluster="prod",
            every_seconds=300,
            grace_seconds=300,
            most_per_hour=most,
            clock=lambda: self.now,
        )

    async def swept(self, garbage: Garbage, times: int) -> list[str]:
        """The pools that are deleted after so many sweeps."""
        for _ in range(times):
            await garbage.sweep(self.kube, self.mirror)
            self.now += timedelta(minutes=5)
        return [name for verb, name in self.cloud.calls if verb == "delete"]

    async def sees_nodes(self, *names: str) -> None:
        """As they are now; and none of those that other tests left, for the share that is Ready counts here."""
        for seen in (await self.kube.list(NODE)).items:
            if seen["metadata"]["name"] in names:
                self.mirror.put(seen)

    def leak(self, name: str) -> None:
        self.cloud.pools[name] = replace(POOL, name=name)


@pytest.fixture
async def scene(kube: Kube, api_server: ApiServer, crds: None) -> AsyncIterator[Scene]:
    node = a_node(number=7)
    api_server.ask("POST", "/api/v1/nodes", {"metadata": {"name": node["metadata"]["name"]}})
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    api_server.merge(f"{path}/status", {"status": {"conditions": node["status"]["conditions"]}})
    scene = Scene(kube, RecordOnlyCloud())
    await scene.sees_nodes(node["metadata"]["name"])
    yield scene
    api_server.ask("DELETE", path)


@pytest.mark.controlplane
@pytest.mark.money
async def test_a_leaked_pool_is_deleted_the_third_time_it_is_found(scene: Scene) -> None:
    scene.leak("ws1")
    garbage = scene.sweeper()
    assert await scene.swept(garbage, 2) == []
    assert await scene.swept(garbage, 1) == ["ws1"]
    assert scene.cloud.pools == {}


@pytest.mark.controlplane
@pytest.mark.money
async def test_a_restart_counts_anew(scene: Scene) -> None:
    scene.leak("ws1")
    assert await scene.swept(scene.sweeper(), 2) == []
    assert await scene.swept(scene.sweeper(), 2) == []


@pytest.mark.controlplane
@pytest.mark.money
async def test_a_machine_that_the_mirror_does_not_know_keeps_its_pool(scene: Scene, api_server: ApiServer) -> None:
    made = a_machine(name="ws1")
    meta = {key: made["metadata"][key] for key in ("name", "annotations")}  # not even our label
    live = api_server.ask("POST", "/apis/karpenter.sh/v1alpha5/machines", {**made, "metadata": meta})
    scene.cloud.pools["ws1"] = replace(POOL, name="ws1", tags=owner_tags(live, cluster="prod"))
    assert await scene.swept(scene.sweeper(), 5) == []


@pytest.mark.controlplane
@pytest.mark.money
async def test_no_more_than_so_many_are_collected_within_an_hour(scene: Scene) -> None:
    for number in range(5):
        scene.leak(f"ws{number}")
    garbage = scene.sweeper(most=2)
    assert len(await scene.swept(garbage, 4)) == 2
    scene.now += timedelta(hours=1)
    assert len(await scene.swept(garbage, 1)) == 4


@pytest.mark.controlplane
@pytest.mark.money
async def test_while_the_cluster_is_stopped_nothing_is_collected(scene: Scene) -> None:
    scene.leak("ws1")
    scene.cloud.pools["sys"] = AgentPool("sys", "Succeeded", power="Stopped")
    garbage = scene.sweeper()
    assert await scene.swept(garbage, 5) == []
    del scene.cloud.pools["sys"]
    assert await scene.swept(garbage, 2) == []
    assert await scene.swept(garbage, 1) == ["ws1"]


@pytest.mark.controlplane
@pytest.mark.money
async def test_a_cloud_that_does_not_answer_collects_nothing(scene: Scene) -> None:
    scene.leak("ws1")
    scene.cloud.refuse["list"] = classified(503, None)
    with pytest.raises(CloudError):
        await scene.sweeper().sweep(scene.kube, scene.mirror)


@pytest.mark.controlplane
@pytest.mark.money
async def test_a_node_that_its_machine_left_behind_goes_unless_too_many_are_not_ready(
    scene: Scene, api_server: ApiServer
) -> None:
    left_behind = a_left_node()
    meta = {key: left_behind["metadata"][key] for key in ("name", "labels")}
    owner = {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine", "name": "ws0123456789", "uid": "gone"}
    path = f"/api/v1/nodes/{meta['name']}"
    api_server.ask("POST", "/api/v1/nodes", {"metadata": {**meta, "ownerReferences": [owner]}})
    created = moment(api_server.ask("GET", path)["metadata"]["creationTimestamp"])
    scene.now = created + timedelta(hours=1)
    await scene.sees_nodes(meta["name"])
    garbage = scene.sweeper()
    await scene.swept(garbage, 4)
    assert api_server.get(path) is not None  # one of two is not Ready

    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    for name in ("well-1", "well-2"):
        api_server.ask("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        api_server.merge(f"/api/v1/nodes/{name}/status", ready)
    await scene.sees_nodes(meta["name"], "well-1", "well-2")
    await scene.swept(garbage, 2)
    assert api_server.get(path) is not None
    await scene.swept(garbage, 1)
    assert api_server.get(path) is None
    for name in ("well-1", "well-2"):
        api_server.ask("DELETE", f"/api/v1/nodes/{name}")


@pytest.mark.controlplane
@pytest.mark.money
async def test_a_node_whose_machine_is_gone_waits_for_its_pool_and_for_nothing_else(
    scene: Scene, api_server: ApiServer
) -> None:
    """Somebody forced the finalizer off a Machine, and deletes its node: the pool is collected, then the node goes."""
    left_behind = a_left_node()
    meta = {key: left_behind["metadata"][key] for key in ("name", "labels")}
    owner = {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine", "name": "ws0123456789", "uid": "gone"}
    path = f"/api/v1/nodes/{meta['name']}"
    held = {"ownerReferences": [owner], "finalizers": ["karpenter.sh/termination"]}
    api_server.ask("POST", "/api/v1/nodes", {"metadata": {**meta, **held}})
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    api_server.merge(f"{path}/status", ready)
    api_server.ask("DELETE", path)
    for seen in (await scene.kube.list(NODE)).items:
        scene.mirror.put(seen)
    scene.leak("ws0123456789")
    garbage = scene.sweeper()
    assert await scene.swept(garbage, 2) == []
    assert api_server.get(path) is not None
    assert await scene.swept(garbage, 1) == ["ws0123456789"]

    api_server.merge(f"{path}/status", {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    for seen in (await scene.kube.list(NODE)).items:  # half of the nodes are not Ready: nothing is collected now
        scene.mirror.put(seen)
    scene.cloud.refuse["get"] = classified(503, None)
    with pytest.raises(CloudError):
        await scene.swept(garbage, 1)
    assert api_server.get(path) is not None  # a LIST may lag behind, and the cloud cannot be asked by name
    del scene.cloud.refuse["get"]
    await scene.swept(garbage, 1)
    assert api_server.get(path) is None
