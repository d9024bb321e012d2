"""What Azure says of sizes and usages, and what that means for a launch before it is tried."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kaito_operator.gpu_provisioner.azure import connect
from kaito_operator.gpu_provisioner.errors import UNAVAILABLE, Refusal
from kaito_operator.gpu_provisioner.quota import outlook, sizes_of, usages_of
from kaito_operator.settings import ProvisionerSettings

V100 = "Standard_NC12s_v3"
CLOSED = [{"type": "Location", "values": ["eastus"], "reasonCode": "NotAvailableForSubscription"}]
ZONE_CLOSED = [{"type": "Zone", "values": ["eastus"], "restrictionInfo": {"zones": ["1"]}}]


def a_sku(**changes: Any) -> dict[str, Any]:
    """As Microsoft.Compute/skus has it."""
    return {
        "resourceType": "virtualMachines",
        "name": V100,
        "family": "standardNCSv3Family",
        "capabilities": [{"name": "vCPUs", "value": "12"}, {"name": "GPUs", "value": "2"}],
        "restrictions": [],
        **changes,
    }


def a_usage(name: str, used: int, limit: int) -> dict[str, Any]:
    """As Microsoft.Compute/locations/usages has it."""
    return {"unit": "Count", "currentValue": used, "limit": limit, "name": {"value": name, "localizedValue": name}}


ROOM = [a_usage("cores", 20, 100), a_usage("standardNCSv3Family", 0, 24), a_usage("lowPriorityCores", 0, 0)]


def of(*, skus: list[Any] | None = None, usages: list[Any] | None = None, spot: bool = False) -> Refusal | None:
    sizes = sizes_of([a_sku()] if skus is None else skus)
    used = usages_of(ROOM if usages is None else usages)
    return outlook(V100, spot=spot, sizes=sizes, usages=used, location="eastus")


def test_where_there_is_room_nothing_is_held_against_it() -> None:
    assert of() is None
    assert of(usages=[a_usage("standardNCSv3Family", 12, 24), a_usage("cores", 88, 100)]) is None


def test_the_family_the_region_and_spot_have_a_limit_each_and_it_is_named() -> None:
    full = of(usages=[a_usage("standardNCSv3Family", 13, 24)])
    assert full is not None
    assert (full.reason, full.terminal) == ("QuotaExceeded", True)
    assert full.message.startswith(f"{UNAVAILABLE}: standardNCSv3Family: {V100} needs 12 vCPUs, 13 of 24 are in use")
    region = of(usages=[a_usage("standardNCSv3Family", 0, 24), a_usage("cores", 95, 100)])
    assert region is not None
    assert "cores" in region.message
    spot = of(spot=True)
    assert spot is not None
    assert "lowPriorityCores" in spot.message
    assert "Current Limit: 0" in spot.message


def test_a_size_that_the_subscription_may_not_have_here_is_named() -> None:
    for skus in ([a_sku(restrictions=CLOSED)], [a_sku(name="Standard_Other")]):
        closed = of(skus=skus)
        assert closed is not None
        assert (closed.reason, closed.message.startswith(UNAVAILABLE)) == ("SkuNotAvailable", True)
    assert of(skus=[a_sku(restrictions=ZONE_CLOSED)]) is None


def test_what_azure_does_not_say_is_not_held_against_it() -> None:
    assert of(skus=[], usages=[]) is None
    assert of(usages=[]) is None


class Region:
    """Serves the figures, and remembers what was asked."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.asked = status, list[str]()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/subscriptions/s/providers/Microsoft.Compute/{rest:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path.rpartition("/")[2])
        assert request.headers["Authorization"] == "Bearer x"
        skus, usages = [a_sku()], [a_usage("standardNCSv3Family", 24, 24)]
        if request.path.endswith("skus"):
            assert request.query["$filter"] == "location eq 'eastus'"
        value: Iterator[Any] | list[Any] = skus if request.path.endswith("skus") else usages
        return web.json_response({"value": value}, status=self.status)


def settings(url: str, token: Path) -> ProvisionerSettings:
    token.write_text("x")
    return ProvisionerSettings(
        subscription="s",
        resource_group="g",
        cluster="c",
        location="eastus",
        endpoint=url,
        static_token_file=str(token),
    )


@pytest.mark.parametrize(("status", "reason"), [(200, "QuotaExceeded"), (403, ""), (500, "")])
async def test_the_figures_are_read_once_and_may_be_missing(tmp_path: Path, status: int, reason: str) -> None:
    region = Region(status)
    async with TestServer(region.app()) as server:
        cloud = connect(settings(str(server.make_url("")), tmp_path / "token"))
        told = [await cloud.outlook({"properties": {"vmSize": V100}}) for _ in range(3)]
        await cloud.close()
    assert [refusal.reason if refusal else "" for refusal in told] == [reason] * 3
    assert sorted(region.asked) == ["skus", "usages"]
