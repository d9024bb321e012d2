"""What one Machine was refused for is not asked again for the next, for as long as that holds and no longer."""

from datetime import UTC, datetime, timedelta

import pytest

from kaito_operator.gpu_provisioner.agent_pool import agent_pool
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import UNAVAILABLE, Refusal, classified
from kaito_operator.gpu_provisioner.offerings import Offering, Offerings, family
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.plan import CreateInCloud, DeleteInCloud
from tests.support.machines import a_machine
from tests.support.record_only import RecordOnlyCloud

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
V100, A100 = Offering("Standard_NC12s_v3"), Offering("Standard_NC24ads_A100_v4")
SPOT = Offering("Standard_NC12s_v3", spot=True)


def refusal(code: str, message: str = "no") -> Refusal:
    return classified(409, {"code": code, "message": message})


HOLDS: dict[str, tuple[Offering, Refusal, float]] = {
    "quota": (V100, refusal("QuotaExceeded", "Current Limit: 24"), 600),
    "no quota at all": (V100, refusal("QuotaExceeded", "Current Limit: 0, Current Usage: 0"), 3600),
    "allocation": (V100, refusal("ZonalAllocationFailed"), 3600),
    "not offered": (V100, refusal("SkuNotAvailable"), 23 * 3600),
    "not offered on spot": (SPOT, refusal("SkuNotAvailable"), 3600),
    "no quota of spot": (SPOT, refusal("OperationNotAllowed", "LowPriorityCores quota"), 3600),
}


@pytest.mark.parametrize("case", HOLDS)
def test_a_refusal_of_a_size_holds_for_its_time(case: str) -> None:
    offering, refused, seconds = HOLDS[case]
    offerings = Offerings()
    offerings.refused(offering, refused, now=NOON)
    just_before = offerings.unavailable(offering, now=NOON + timedelta(seconds=seconds - 1))
    assert just_before == Refusal(refused.reason, refused.message, 1.0, True)
    assert offerings.unavailable(offering, now=NOON + timedelta(seconds=seconds)) is None


def test_it_says_nothing_of_another_size_nor_of_spot() -> None:
    offerings = Offerings()
    offerings.refused(V100, refusal("AllocationFailed"), now=NOON)
    assert (offerings.unavailable(A100, now=NOON), offerings.unavailable(SPOT, now=NOON)) == (None, None)


def test_the_quota_of_spot_is_that_of_all_sizes() -> None:
    offerings = Offerings()
    offerings.refused(SPOT, refusal("OperationNotAllowed", "LowPriorityCores quota"), now=NOON)
    assert offerings.unavailable(Offering(A100.vm_size, spot=True), now=NOON) is not None
    assert offerings.unavailable(V100, now=NOON) is None


@pytest.mark.parametrize(
    ("size", "number"),
    [
        ("Standard_NC24ads_A100_v4", 24),
        ("standard_nc96ADS_a100_V4", 96),
        ("Standard_NC48ads_A100_v4", 48),
    ],
)
def test_sizes_of_one_family_have_one_name_but_for_their_number(size: str, number: int) -> None:
    assert family(size) == ("standard_nc#ads_a100_v4", number)


def test_what_differs_in_more_than_the_number_is_another_family() -> None:
    sizes = (
        "Standard_NC12s_v3", "Standard_NC12s_v2", "Standard_NC12", "Standard_NC12r", "Standard_NC12ads_A10_v4",
        "Standard_ND12s_v3", "Basic_A2", "Standard_A2",
    )  # fmt: skip
    families = {known[0] for known in map(family, sizes) if known is not None}
    assert len(families) == len(sizes)
    assert family("Standard_E32-8s_v3") == family("Standard_E32s_v3")  # the same quota, fewer cores switched on
    assert family("p4d.24xlarge") is None


@pytest.mark.parametrize("asked", ["Standard_NC6s_v3", "Standard_NC12s_v3", "Standard_NC24s_v3", "Standard_ND24s_v3"])
def test_a_quota_without_room_for_a_size_has_none_for_a_larger_one_of_the_family(asked: str) -> None:
    offerings = Offerings()
    offerings.refused(V100, refusal("QuotaExceeded", "Current Limit: 24"), now=NOON)
    kept = offerings.unavailable(Offering(asked, zones=("1",)), now=NOON)
    assert (kept is not None) == (asked in ("Standard_NC12s_v3", "Standard_NC24s_v3"))
    assert offerings.unavailable(Offering(asked, spot=True), now=NOON) is None
    assert offerings.unavailable(Offering(asked), now=NOON + timedelta(seconds=600)) is None


def test_what_cannot_be_allocated_says_nothing_of_its_family() -> None:
    offerings = Offerings()
    offerings.refused(V100, refusal("AllocationFailed"), now=NOON)
    assert offerings.unavailable(Offering("Standard_NC24s_v3"), now=NOON) is None


@pytest.mark.parametrize("code", ["Throttled", "AuthorizationFailed", "InsufficientSubnetSize", "InvalidParameter"])
def test_what_is_not_the_fault_of_the_size_is_not_held_against_it(code: str) -> None:
    offerings = Offerings()
    offerings.refused(V100, refusal(code), now=NOON)
    assert offerings.unavailable(V100, now=NOON) is None


def test_what_a_zone_has_not_the_region_may_have_and_not_the_other_way_round() -> None:
    zonal = Offering(V100.vm_size, zones=("1",))
    offerings = Offerings()
    offerings.refused(zonal, refusal("ZonalAllocationFailed"), now=NOON)
    unavailable = [offerings.unavailable(each, now=NOON) is not None for each in (zonal, V100, other_zone())]
    assert unavailable == [True, False, False]
    offerings.refused(V100, refusal("AllocationFailed"), now=NOON)
    assert all(offerings.unavailable(each, now=NOON) is not None for each in (zonal, V100, other_zone()))


def other_zone() -> Offering:
    return Offering(V100.vm_size, zones=("2",))


def test_a_quota_has_no_zones() -> None:
    offerings = Offerings()
    offerings.refused(Offering(V100.vm_size, zones=("1",)), refusal("QuotaExceeded", "Current Limit: 24"), now=NOON)
    assert offerings.unavailable(V100, now=NOON) is not None


# At the door


def create(name: str) -> CreateInCloud:
    return CreateInCloud(name, agent_pool(a_machine(name=name), cluster="prod", now=NOON))


def door(cloud: RecordOnlyCloud) -> Pools:
    return Pools(cloud, poll_seconds=20, most_pools=90, creates_per_10_minutes=100, clock=lambda: NOON)


def puts(cloud: RecordOnlyCloud) -> list[str]:
    return [name for verb, name in cloud.calls if verb == "create"]


async def test_the_second_machine_of_a_size_without_quota_costs_no_put() -> None:
    cloud = RecordOnlyCloud(refuse={"create": refusal("QuotaExceeded", "Current Limit: 24")})
    pools = door(cloud)
    for name in ("ws1", "ws2"):
        await pools.create(create(name))
    assert puts(cloud) == ["ws1"]
    told = pools.known("ws2").create_refused
    assert told is not None
    assert (told.refusal.reason, told.refusal.message.startswith(UNAVAILABLE)) == ("QuotaExceeded", True)


async def test_a_pool_that_failed_for_want_of_machines_speaks_for_its_size_too() -> None:
    cloud = RecordOnlyCloud()
    pools = door(cloud)
    await pools.create(create("ws1"))
    failed = AgentPool("ws1", "Failed", vm_size=V100.vm_size, problem=refusal("AllocationFailed"))
    cloud.pools["ws1"] = failed
    assert not await pools.gone("ws1")
    await pools.create(create("ws2"))
    assert puts(cloud) == ["ws1"]


async def test_what_azure_says_beforehand_costs_no_put() -> None:
    cloud = RecordOnlyCloud(refuse={"outlook": refusal("SkuNotAvailable")})
    pools = door(cloud)
    await pools.create(create("ws1"))
    told = pools.known("ws1").create_refused
    assert (puts(cloud), told and told.refusal.reason) == ([], "SkuNotAvailable")


async def test_a_creation_that_stands_in_the_way_of_its_deletion_is_aborted() -> None:
    busy = refusal("OperationNotAllowed", "Another operation (ws1 - Creating) is in progress")
    cloud = RecordOnlyCloud(becomes="Creating", refuse={"delete": busy})
    pools = door(cloud)
    await pools.create(create("ws1"))
    step = DeleteInCloud("ws1", dict(create("ws1").wanted["properties"]["tags"]))
    await pools.delete(step)
    assert cloud.calls[-2:] == [("delete", "ws1"), ("abort", "ws1")]
    told = pools.known("ws1").delete_refused
    assert told is not None
    assert told.refusal.reason == "OperationInProgress"
    cloud.refuse.clear()
    await pools.delete(step)
    assert (cloud.pools, await pools.gone("ws1")) == ({}, True)
