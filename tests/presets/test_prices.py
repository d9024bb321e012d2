"""Prices: the dated tables, and Azure's list with everything it can answer."""

import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from presets.catalog import load_catalog
from presets.prices.azure_retail import PricesUnavailable, RetailPrices
from presets.prices.price import Price, PriceTableError, bundled, known, read_prices
from presets.prices.price_list import PATH
from tests.support.faulty_http import Fault, Site, serve

CATALOG = load_catalog()


@pytest.mark.parametrize("cloud", ["azure", "aws"])
def test_a_table_is_dated_and_names_sizes_of_its_cloud(cloud: Any) -> None:
    table = bundled(cloud)
    assert table.currency == "USD"
    assert date(2024, 1, 1) < table.as_of <= datetime.now(UTC).date()
    for name in table.hourly:
        size = CATALOG.instance_type(name)
        assert size is not None, name
        assert size.cloud == cloud


def test_a_price_says_where_and_when() -> None:
    price = bundled("azure").price("standard_nc24ads_a100_V4")
    assert price is not None
    assert str(price) == "3.67 USD an hour (eastus, 2024-12-01)"
    assert price.times(2).hourly == 2 * price.hourly
    assert price.monthly == pytest.approx(2681, abs=1)


def test_what_is_not_known_is_none_and_no_guess() -> None:
    assert bundled("azure").price("Standard_ND96isr_H200_v5") is None
    assert known("azure", "westeurope") == {}


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("cloud: azure", "table.yaml: region: Field required"),
        (
            "{cloud: azure, region: r, currency: USD, as_of: never, hourly: {a: 1}}",
            "table.yaml: as_of: Input should be a valid date",
        ),
        ("{cloud: [", "table.yaml: while parsing"),
        (
            "{cloud: azure, region: r, currency: USD, as_of: 2024-01-01, hourly: {a: cheap}}",
            "table.yaml: hourly.a: Input should be a valid number",
        ),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "table.yaml").write_text(content)
    with pytest.raises(PriceTableError) as caught:
        read_prices(tmp_path / "table.yaml")
    assert str(caught.value).startswith(told)


def item(size: str, price: float, **more: Any) -> dict[str, Any]:
    """A meter as the list has them."""
    return {
        "currencyCode": "USD",
        "retailPrice": price,
        "armRegionName": "eastus",
        "armSkuName": size,
        "productName": "Virtual Machines NCADS A100 v4 Series",
        "skuName": size.removeprefix("Standard_").replace("_", " "),
        "unitOfMeasure": "1 Hour",
        "isPrimaryMeterRegion": True,
        "serviceName": "Virtual Machines",
        **more,
    }


A100 = "Standard_NC24ads_A100_v4"
LISTED = [
    item(A100, 3.7),
    item(A100, 5.9, productName="Virtual Machines NCADS A100 v4 Series Windows"),
    item(A100, 0.9, skuName="NC24ads A100 v4 Spot"),
    item(A100, 1.1, skuName="NC24ads A100 v4 Low Priority"),
    item(A100, 2000, unitOfMeasure="1/Month"),
    item(A100, 3.9, isPrimaryMeterRegion=False),
    item("", 1.0),
]


def page(items: list[dict[str, Any]], next_page: str | None = None) -> bytes:
    return json.dumps({"Items": items, "NextPageLink": next_page, "Count": len(items)}).encode()


async def ask(site: Site, tmp_path: Path, *, spot: bool = False) -> dict[str, Price]:
    return dict(await RetailPrices(cache=tmp_path, host=site.url).of("eastus", spot=spot))


async def test_linux_by_the_hour_is_meant_and_nothing_else(tmp_path: Path) -> None:
    with serve(Site(files={PATH: page(LISTED)})) as site:
        found = await ask(site, tmp_path)
        spot = await ask(site, tmp_path, spot=True)
        today = datetime.now(UTC).date()
        assert found == {A100.lower(): Price(hourly=3.7, currency="USD", region="eastus", as_of=today)}
        assert {name: price.hourly for name, price in spot.items()} == {A100.lower(): 0.9}
        asked = site.asked("GET")
        assert len(asked) == 1  # the second answer came out of the cache
        assert "armRegionName+eq+%27eastus%27" in asked[0][1].replace("%20", "+")


async def test_the_list_is_followed_to_its_end(tmp_path: Path) -> None:
    with serve(Site()) as site:
        site.files[PATH] = page([item("Standard_A", 1)], f"{site.url}/second")
        site.files["/second"] = page([item("Standard_B", 2)])
        assert {name: p.hourly for name, p in (await ask(site, tmp_path)).items()} == {"standard_a": 1, "standard_b": 2}


@pytest.mark.security
async def test_a_link_to_another_host_is_not_followed(tmp_path: Path) -> None:
    elsewhere = pytest.raises(PricesUnavailable, match=r"continues on another host, 192\.0\.2\.1")
    with serve(Site(files={PATH: page(LISTED, "http://192.0.2.1/more")})) as site, elsewhere:
        await ask(site, tmp_path)


async def test_a_list_without_an_end_is_given_up(tmp_path: Path) -> None:
    with serve(Site()) as site:
        site.files[PATH] = page([], site.url + PATH)
        with pytest.raises(PricesUnavailable, match="more than 5 pages"):
            await RetailPrices(cache=tmp_path, host=site.url, most_pages=5).of("eastus")


@pytest.mark.faults
@pytest.mark.parametrize("fault", [Fault(status=429, headers={"Retry-After": "1"}), Fault(status=503), Fault(cut=10)])
async def test_a_busy_list_is_asked_again(tmp_path: Path, fault: Fault) -> None:
    with serve(Site(files={PATH: page(LISTED)}, faults=[fault])) as site:
        assert A100.lower() in await ask(site, tmp_path)
        assert len(site.asked("GET")) == 2


CHANGED = {
    "no JSON": b"<html>",
    "another form": b'{"prices": []}',
    "a price that is a word": page([item(A100, 1) | {"retailPrice": "cheap"}]),
    "a negative price": page([item(A100, -1)]),
    "a list": b"[]",
}


@pytest.mark.badinput
@pytest.mark.parametrize("how", CHANGED)
async def test_a_list_of_another_form_is_said_to_be_so(tmp_path: Path, how: str) -> None:
    unknown = pytest.raises(PricesUnavailable, match="in a form that is not known")
    with serve(Site(files={PATH: CHANGED[how]})) as site, unknown:
        await ask(site, tmp_path)


async def test_a_refusal_is_not_repeated(tmp_path: Path) -> None:
    with serve(Site(faults=[Fault(status=400)])) as site:
        with pytest.raises(PricesUnavailable, match=r"\(HTTP 400\)"):
            await ask(site, tmp_path)
        assert len(site.asked("GET")) == 1


async def test_nobody_there_is_said_in_one_line(tmp_path: Path) -> None:
    with serve(Site()) as site:
        gone = site.url
    with pytest.raises(PricesUnavailable, match="did not answer") as caught:
        await RetailPrices(cache=tmp_path, host=gone).of("eastus")
    assert "\n" not in str(caught.value)


async def test_an_old_or_broken_copy_is_asked_for_again(tmp_path: Path) -> None:
    with serve(Site(files={PATH: page(LISTED)})) as site:
        await ask(site, tmp_path)
        copy = tmp_path / "azure-eastus-USD.json"
        os.utime(copy, (1, 1))
        await ask(site, tmp_path)
        copy.write_text("{")
        await ask(site, tmp_path)
        assert len(site.asked("GET")) == 3
