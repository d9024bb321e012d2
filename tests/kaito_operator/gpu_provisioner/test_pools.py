"""The door to the cloud: each write looks first, nothing foreign is touched, and a no is remembered."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kaito_operator.gpu_provisioner.agent_pool import agent_pool, owner_tags
from kaito_operator.gpu_provisioner.azure import AgentPools, connect
from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.mirror import Mirror
from kaito_operator.plan import CreateInCloud, DeleteInCloud, Key
from local_cluster.azure import AzureStandIn
from tests.support.azure import Azure, Recorded, running
from tests.support.machines import a_machine

pytestmark = pytest.mark.money

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME = "ws0123456789"
MACHINE = a_machine()
OWNER = owner_tags(MACHINE, cluster="prod")
CREATE = CreateInCloud(NAME, agent_pool(MACHINE, cluster="prod", now=NOON))
DELETE = DeleteInCloud(NAME, OWNER)


@dataclass
class Time:
    """A clock that is set by hand."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Scene:
    """The door, the stand-in behind it, and the time."""

    azure: Azure
    cloud: AgentPools
    time: Time = field(default_factory=Time)

    def door(self, *, most_pools: int = 90, creates: int = 100) -> Pools:
        """A door that knows nothing yet, as after a restart."""
        return Pools(
            self.cloud, poll_seconds=20, most_pools=most_pools, creates_per_10_minutes=creates, clock=self.time
        )

    async def boots_within(self, seconds: float) -> None:
        await self.azure.ask("PUT", "/control/boot", json={"seconds": seconds})

    def held(self) -> list[str]:
        return sorted(self.azure.stand_in.pools.by_name)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running(AzureStandIn(Recorded(), boot_seconds=600, throttled=False)) as azure:
        cloud = connect(azure.settings(tmp_path / "token"))
        yield Scene(azure, cloud)
        await cloud.close()


def reason(door: Pools, *, of: str = "create", name: str = NAME) -> str:
    """The refusal that is remembered; "" for none."""
    known = door.known(name)
    refused = known.create_refused if of == "create" else known.delete_refused
    return refused.refusal.reason if refused else ""


def other(owner: str, name: str = NAME) -> CreateInCloud:
    """The same Machine with another uid."""
    return CreateInCloud(name, agent_pool(a_machine(name=name, uid=owner), cluster="prod", now=NOON))


async def test_asking_twice_is_one_pool_also_after_a_restart(scene: Scene) -> None:
    await scene.door().create(CREATE)
    restarted = scene.door()
    await restarted.create(CREATE)
    known = restarted.known(NAME).pool
    assert known is not None
    assert known.bears(OWNER)
    assert scene.azure.calls("PUT") == [("PUT", 201)]


async def test_a_pool_of_another_machine_is_neither_adopted_nor_deleted(scene: Scene) -> None:
    await scene.door().create(other("somebody"))
    door = scene.door()
    await door.create(CREATE)
    await door.delete(DELETE)
    assert (reason(door), reason(door, of="delete")) == ("NameTaken", "NameTaken")
    assert scene.held() == [NAME]
    assert (scene.azure.calls("PUT"), scene.azure.calls("DELETE")) == ([("PUT", 201)], [])


@pytest.mark.parametrize("missing", sorted(OWNER))
async def test_a_pool_without_all_three_tags_is_left_alone(scene: Scene, missing: str) -> None:
    tags = {tag: value for tag, value in OWNER.items() if tag != missing}
    await scene.cloud.create(NAME, {"properties": {**CREATE.wanted["properties"], "tags": tags}})
    door = scene.door()
    await door.delete(DELETE)
    await door.create(CREATE)
    assert scene.held() == [NAME]
    assert scene.azure.calls("DELETE") == []


@pytest.mark.faults
async def test_a_create_whose_answer_was_lost_is_found_by_the_next_look(scene: Scene) -> None:
    door = scene.door()
    await scene.azure.fault(method="PUT", reset=True, after_commit=True, times=2)
    await door.create(CREATE)
    assert (door.known(NAME).pool, reason(door)) == (None, "CloudUnavailable")
    assert door.known(NAME).absent_since is None  # the 404 of before the create says nothing any more

    await door.create(CREATE)
    assert door.known(NAME).pool is not None
    assert [status for _, status in scene.azure.calls("PUT")] == [0, 0]


@pytest.mark.faults
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_refused_create_is_remembered_for_longer_each_time(scene: Scene, method: str) -> None:
    door = scene.door()
    await scene.azure.fault(method=method, status=503)
    waits = []
    for _ in range(8):
        await door.create(CREATE)
        refused = door.known(NAME).create_refused
        assert refused is not None
        waits.append((refused.until - scene.time.now).total_seconds())
        scene.time.now = refused.until
    assert waits == [10, 10, 20, 40, 80, 160, 300, 300]
    assert scene.held() == []


async def test_absence_counts_from_the_first_404_and_not_from_before_the_pool(scene: Scene) -> None:
    door = scene.door()
    assert await door.gone(NAME)
    scene.time.passes(10)
    assert await door.gone(NAME)
    assert door.known(NAME).absent_since == NOON

    await door.create(CREATE)
    assert not await door.gone(NAME)
    await door.delete(DELETE)
    scene.time.passes(10)
    assert await door.gone(NAME)
    scene.time.passes(10)
    assert await door.gone(NAME)
    assert door.known(NAME).absent_since == NOON + timedelta(seconds=20)


@pytest.mark.faults
async def test_not_being_able_to_look_is_not_being_gone(scene: Scene) -> None:
    door = scene.door()
    await scene.azure.fault(method="GET", status=503)
    assert not await door.gone(NAME)
    assert (door.known(NAME).absent_since, reason(door, of="delete")) == (None, "CloudUnavailable")


async def test_a_missing_cluster_is_not_a_missing_pool(scene: Scene) -> None:
    door = scene.door()
    gone = {"error": {"code": "ResourceNotFound", "message": "The Resource 'managedClusters/prod' was not found."}}
    await scene.azure.fault(status=404, body=gone)
    assert not await door.gone(NAME)


@pytest.mark.faults
async def test_a_refused_deletion_never_counts_as_done(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    busy = {"error": {"code": "OperationNotAllowed", "message": "Another operation (ws - Creating) is in progress"}}
    await scene.azure.fault(method="DELETE", status=409, body=busy, times=1)
    await door.delete(DELETE)
    assert (reason(door, of="delete"), scene.held()) == ("OperationInProgress", [NAME])
    assert not await door.gone(NAME)

    await door.delete(DELETE)
    assert scene.held() == []
    assert await door.gone(NAME)
    assert reason(door, of="delete") == ""


async def test_a_pool_that_is_given_up_is_spared_if_it_came_to_life_meanwhile(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    seen = door.known(NAME).pool
    assert seen is not None
    await scene.azure.ask("PUT", "/control/boot", json={"seconds": 0})
    scene.azure.stand_in.pools.by_name[NAME].enter("Succeeded")
    await door.delete(replace(DELETE, etag=seen.etag))
    assert scene.azure.calls("DELETE") == []
    assert door.known(NAME).pool == replace(seen, state="Succeeded", etag=scene.azure.stand_in.pools.by_name[NAME].etag)


async def test_no_more_pools_than_the_cap_however_many_are_asked_for_at_once(scene: Scene) -> None:
    door = scene.door(most_pools=2)
    names = [f"ws{number}" for number in range(6)]
    await asyncio.gather(*(door.create(other("m", name)) for name in names))
    assert len(scene.held()) == 2
    assert sorted(reason(door, name=name) for name in names) == ["", "", *["PoolLimit"] * 4]


async def test_no_more_creates_in_ten_minutes_than_the_cap(scene: Scene) -> None:
    door = scene.door(creates=1)
    await door.create(other("m", "ws1"))
    await door.create(other("m", "ws2"))
    assert reason(door, name="ws2") == "CreateLimit"
    scene.time.passes(601)
    await door.create(other("m", "ws2"))
    assert scene.held() == ["ws1", "ws2"]


# One LIST for all


def mirror_of(*machines: dict[str, Any]) -> Mirror:
    mirror = Mirror()
    for machine in machines:
        mirror.put(machine)
    return mirror


def status(**steps: str) -> dict[str, Any]:
    return {"conditions": [{"type": step, "status": value} for step, value in steps.items()]}


READY = status(MachineLaunched="True", Ready="True")
LAUNCHED = status(MachineLaunched="True", Ready="False")
ASKED_FOR = status(MachineLaunched="False", Ready="False")


async def followed(door: Pools, mirror: Mirror) -> list[Key]:
    """One round; whom it asked to be looked at."""
    added: list[Key] = []
    await door.follow_once(added.append, mirror)
    return added


async def test_one_list_tells_of_every_machine_in_flight_and_only_of_changes(scene: Scene) -> None:
    door = scene.door()
    names = [f"ws{number}" for number in range(5)]
    mirror = mirror_of(*(a_machine(name=name, uid="m", status=ASKED_FOR) for name in names))
    for name in names:
        await door.create(other("m", name))
    scene.azure.stand_in.history.clear()

    assert await followed(door, mirror) == []
    scene.azure.stand_in.pools.by_name["ws3"].enter("Succeeded")
    assert await followed(door, mirror) == [Key("", "ws3")]
    assert scene.azure.calls() == [("GET", 200), ("GET", 200)]


async def test_with_nothing_in_flight_nothing_is_asked(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    scene.azure.stand_in.history.clear()
    assert await followed(door, mirror_of(a_machine(status=READY))) == []
    assert await followed(scene.door(), mirror_of()) == []
    assert scene.azure.calls() == []


async def test_after_a_restart_one_list_tells_what_became_of_the_machines_that_were_launched(scene: Scene) -> None:
    await scene.door().create(CREATE)
    door = scene.door()
    assert await followed(door, mirror_of(a_machine(status=READY))) == [Key("", NAME)]
    known = door.known(NAME).pool
    assert known is not None
    assert known.bears(OWNER)


@pytest.mark.faults
async def test_a_list_that_lags_behind_does_not_make_a_pool_absent(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    await scene.azure.fault(method="GET", path="agentPools$", status=200, body={"value": []})
    assert await followed(door, mirror_of(a_machine(status=LAUNCHED))) == []
    assert door.known(NAME).pool is not None


async def test_a_pool_that_vanished_is_noticed(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    del scene.azure.stand_in.pools.by_name[NAME]
    assert await followed(door, mirror_of(a_machine(status=LAUNCHED))) == [Key("", NAME)]
    assert door.known(NAME).absent_since == NOON


@pytest.mark.faults
async def test_a_list_that_is_refused_is_told_to_those_in_flight_and_changes_nothing_else(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    before, mirror = door.known(NAME), mirror_of(a_machine(status=LAUNCHED))
    no = {"error": {"code": "AuthorizationFailed", "message": "no role"}}
    await scene.azure.fault(method="GET", path="agentPools$", status=403, body=no)
    assert await followed(door, mirror) == [Key("", NAME)]
    assert replace(door.known(NAME), unseen="") == before
    assert door.known(NAME).unseen.startswith("no role")
    assert await followed(door, mirror) == []
    await scene.azure.heal()
    assert await followed(door, mirror) == [Key("", NAME)]
    assert door.known(NAME) == before


async def test_what_is_known_of_a_machine_that_is_gone_is_forgotten(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    await followed(door, mirror_of())
    assert door.known(NAME).nothing


@pytest.mark.faults
async def test_those_who_are_throttled_come_back_one_after_another(scene: Scene) -> None:
    """Fifty that all came back after the same Retry-After found one token again, and waited ever longer."""
    door = scene.door()
    await scene.azure.fault(request="get", status=429, headers={"Retry-After": "7"})
    for number in range(10):
        assert not await door.gone(f"ws{number}")
    told = [door.known(f"ws{number}").delete_refused for number in range(10)]
    waits = [(no.until - NOON).total_seconds() for no in told if no is not None]
    assert waits == [7.0 + 2.0 * number for number in range(10)]

    scene.time.passes(3600)
    await door.gone("ws1")
    again = door.known("ws1").delete_refused
    assert again is not None
    assert (again.until - NOON).total_seconds() == 3600 + 10  # nobody waits any more; the second try in a row


async def test_a_deletion_takes_one_look_and_one_request(scene: Scene) -> None:
    door = scene.door()
    await door.create(CREATE)
    scene.azure.stand_in.history.clear()
    await door.delete(DELETE)
    await door.delete(DELETE)
    assert scene.azure.calls() == [("GET", 200), ("DELETE", 202), ("GET", 404)]


# Many at once


def gone(door: Pools, name: str) -> datetime | None:
    return door.known(name).absent_since


async def asked_for(scene: Scene, door: Pools, count: int) -> list[str]:
    names = [f"ws{number}" for number in range(count)]
    for name in names:
        await door.create(other("m", name))
    return names


async def test_many_creates_at_once_take_a_put_each_and_share_their_looks(scene: Scene) -> None:
    names = await asked_for(scene, scene.door(), 50)
    assert scene.held() == sorted(names)
    classes = Counter(call["class"] for call in scene.azure.stand_in.history)
    assert classes == {"put": 50, "get": 3, "list": 1}


async def test_many_deletions_at_once_take_a_request_each_and_share_their_looks(scene: Scene) -> None:
    door = scene.door()
    names = await asked_for(scene, door, 50)
    scene.time.passes(60)
    scene.azure.stand_in.history.clear()
    for name in names:
        await door.delete(DeleteInCloud(name, {**OWNER, "kaito.sh_machine-uid": "m"}))
    classes = Counter(call["class"] for call in scene.azure.stand_in.history)
    assert (scene.held(), classes) == ([], {"delete": 50, "get": 3, "list": 1})


async def test_a_shared_look_is_no_older_than_five_seconds(scene: Scene) -> None:
    door = scene.door()
    await asked_for(scene, door, 10)
    scene.time.passes(6)
    scene.azure.stand_in.history.clear()
    await door.create(other("m", "late"))
    await door.create(other("m", "later"))
    assert Counter(call["class"] for call in scene.azure.stand_in.history) == {"put": 2, "list": 1}


@pytest.mark.faults
async def test_of_a_pool_that_a_shared_look_does_not_show_no_second_one_is_made(scene: Scene) -> None:
    """A LIST that lags hides a pool of ours: the PUT holds only where there is none, and the next look is by name."""
    await scene.door().create(other("m", "hidden"))
    await scene.azure.fault(method="GET", path="agentPools$", status=200, body={"value": []})
    door = scene.door()
    await asked_for(scene, door, 4)
    await door.create(other("m", "hidden"))
    assert (reason(door, name="hidden"), scene.azure.calls("PUT")[-1]) == ("Changed", ("PUT", 412))
    await door.create(other("m", "hidden"))
    known = door.known("hidden").pool
    assert known is not None
    assert sum(status == 201 for _, status in scene.azure.calls("PUT")) == 5


@pytest.mark.faults
async def test_a_pool_that_a_shared_look_does_not_show_is_asked_after_by_name_before_it_counts_as_gone(
    scene: Scene,
) -> None:
    door = scene.door()
    await asked_for(scene, door, 5)
    scene.time.passes(6)
    await scene.azure.fault(method="GET", path="agentPools$", status=200, body={"value": []})
    await door.delete(DeleteInCloud("ws4", {**OWNER, "kaito.sh_machine-uid": "m"}))
    assert (gone(door, "ws4"), "ws4" in scene.held()) == (None, False)


async def test_a_shared_look_that_is_out_of_date_deletes_nothing(scene: Scene) -> None:
    """Somebody changed the pool after the LIST: the etag is another."""
    door = scene.door()
    await asked_for(scene, door, 5)
    scene.azure.stand_in.pools.by_name["ws0"].enter("Updating")
    await door.delete(DeleteInCloud("ws0", {**OWNER, "kaito.sh_machine-uid": "m"}))
    assert (reason(door, of="delete", name="ws0"), "ws0" in scene.held()) == ("Changed", True)


async def test_of_many_that_go_the_silence_of_a_list_is_the_first_no(scene: Scene) -> None:
    door = scene.door()
    names = await asked_for(scene, door, 10)
    mirror = mirror_of(*(a_machine(name=name, uid="m", status=READY, deleting=True) for name in names))
    for name in names[:9]:
        await door.delete(DeleteInCloud(name, {**OWNER, "kaito.sh_machine-uid": "m"}))
    del scene.azure.stand_in.pools.by_name["ws9"]  # nobody asked for that: it is looked for by name
    scene.azure.stand_in.history.clear()
    assert sorted(await followed(door, mirror)) == [Key("", name) for name in names]
    assert {gone(door, name) for name in names} == {NOON}
    assert [(call["class"], call["status"]) for call in scene.azure.stand_in.history] == [("list", 200), ("get", 404)]


async def test_of_few_that_go_each_is_asked_after_by_name(scene: Scene) -> None:
    door = scene.door()
    names = await asked_for(scene, door, 3)
    mirror = mirror_of(*(a_machine(name=name, uid="m", status=READY, deleting=True) for name in names))
    for name in names:
        await door.delete(DeleteInCloud(name, {**OWNER, "kaito.sh_machine-uid": "m"}))
    scene.azure.stand_in.history.clear()
    await followed(door, mirror)
    assert Counter(call["class"] for call in scene.azure.stand_in.history) == {"list": 1, "get": 3}


@pytest.mark.faults
async def test_what_a_round_learned_before_it_was_refused_is_told(scene: Scene) -> None:
    door = scene.door()
    names = await asked_for(scene, door, 2)
    mirror = mirror_of(*(a_machine(name=name, uid="m", status=ASKED_FOR) for name in names))
    scene.azure.stand_in.pools.by_name["ws0"].enter("Succeeded")
    del scene.azure.stand_in.pools.by_name["ws1"]
    await scene.azure.fault(request="get", status=503)
    assert sorted(await followed(door, mirror)) == [Key("", "ws0"), Key("", "ws1")]
    (succeeded, creating) = (door.known(name).pool for name in names)
    assert succeeded is not None
    assert creating is not None
    assert (succeeded.state, creating.state) == ("Succeeded", "Creating")


async def test_who_waits_for_a_turn_asks_no_sooner_and_has_failed_no_oftener(scene: Scene) -> None:
    door = scene.door()
    queued = Refusal("Queued", "waits", 7.0)
    for _ in range(3):
        door._no_create(NAME, queued)
        refused = door.known(NAME).create_refused
        assert refused is not None
        assert (refused.until - scene.time.now, refused.tries) == (timedelta(seconds=7), 0)
