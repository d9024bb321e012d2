"""Nobody asks Azure more often than its bucket allows: who is too much gets a turn, and comes back for it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from kaito_operator.gpu_provisioner.cloud import CloudError
from kaito_operator.gpu_provisioner.errors import classified
from kaito_operator.gpu_provisioner.turns import Bucket, InTurn
from local_cluster.azure_behaviour import BucketSize
from local_cluster.azure_throttle import Buckets
from tests.support.record_only import RecordOnlyCloud

ROUNDING = 1e-6
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@dataclass
class Scene:
    """A cloud, asked in turn, and the time."""

    inner: RecordOnlyCloud = field(default_factory=RecordOnlyCloud)
    now: datetime = NOON

    def cloud(self, *, burst: int = 10) -> InTurn:
        return InTurn(self.inner, burst=burst, per_second=1.0, clock=lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


async def waits(cloud: InTurn, *names: str) -> list[float]:
    """For each name, how long its look has to wait; 0 if it was let through."""
    found = []
    for name in names:
        try:
            await cloud.get(name)
        except CloudError as error:
            found.append(error.refusal.retry_after if error.refusal.reason == "Queued" else -1.0)
        else:
            found.append(0.0)
    return found


def names(count: int) -> list[str]:
    return [f"ws{number}" for number in range(count)]


async def test_as_many_as_the_bucket_holds_are_let_through_and_the_others_get_a_turn_each() -> None:
    scene = Scene()
    cloud = scene.cloud()
    assert await waits(cloud, *names(9)) == [0, 0, 0, 0, 0, 1, 2, 3, 4]  # five are kept for LISTs
    assert scene.inner.calls == [("get", name) for name in names(5)]


async def test_who_comes_for_a_turn_gets_it_though_others_have_asked_since() -> None:
    scene = Scene()
    cloud = scene.cloud()
    await waits(cloud, *names(7))
    scene.passes(2)
    assert await waits(cloud, "late", "ws6", "ws5") == [1, 0, 0]


async def test_who_comes_too_early_waits_for_the_same_turn() -> None:
    scene = Scene()
    cloud = scene.cloud()
    assert await waits(cloud, *names(8)) == [0, 0, 0, 0, 0, 1, 2, 3]
    scene.passes(1)
    assert await waits(cloud, "ws7", "ws7", "ws5") == [2, 2, 0]


async def test_a_deletion_and_a_look_have_turns_of_their_own_and_a_put_needs_none() -> None:
    scene = Scene()
    cloud = scene.cloud()
    await waits(cloud, *names(6))
    with pytest.raises(CloudError):
        await cloud.delete("ws5", etag="")
    with pytest.raises(CloudError):
        await cloud.abort("ws5")
    await cloud.create("ws5", {"properties": {"vmSize": "x", "tags": {}}})
    scene.passes(2)
    await cloud.delete("ws5", etag="")
    assert [verb for verb, _ in scene.inner.calls[-2:]] == ["create", "delete"]


async def test_a_list_is_sent_at_once_and_counts() -> None:
    scene = Scene()
    cloud = scene.cloud()
    await waits(cloud, *names(5))
    for _ in range(5):
        await cloud.list()
    assert await waits(cloud, "ws6") == [6]


async def test_a_turn_that_nobody_came_for_is_forgotten() -> None:
    scene = Scene()
    cloud = scene.cloud()
    await waits(cloud, *names(5), "never")
    scene.passes(62)
    await waits(cloud, "another")
    assert cloud._turns == {}


async def test_an_answer_of_429_says_that_others_have_emptied_the_bucket() -> None:
    scene = Scene()
    cloud = scene.cloud()
    scene.inner.refuse["get"] = classified(429, {"code": "Throttled"}, retry_after=1)
    with pytest.raises(CloudError, match="HTTP 429"):
        await cloud.get("ws0")
    del scene.inner.refuse["get"]
    assert await waits(cloud, "ws1") == [6]


@pytest.mark.parametrize("keep", [0, 5])
def test_a_bucket_gives_no_token_that_the_bucket_of_aks_has_not(keep: int) -> None:
    """Whoever keeps to the turns meets no 429, whatever the rhythm: judged by the stand-in's own arithmetic."""
    ours, theirs = Bucket(60, 1.0), Buckets()
    size = {"other": BucketSize(burst=60 + ROUNDING, per_second=1.0)}
    sent = sorted(ours.take(NOON + timedelta(seconds=when), keep=keep) for when in rhythm(400))
    refused = [theirs.draw("other", "s", size, now=(at - NOON).total_seconds()) for at in sent]
    assert refused == [0] * 400


def rhythm(count: int) -> list[float]:
    """A burst, a trickle a little later, another burst."""
    return [0.0 if n < 100 else 150 + n / 3 if n < 250 else 400.0 for n in range(count)]
