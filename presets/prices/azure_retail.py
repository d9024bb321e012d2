"""What Azure asks for its machines today: the Retail Prices API, which needs no account, behind a cache on disk.

https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from presets.prices.price import Price

HOST = "https://prices.azure.com"
PATH = "/api/retail/prices"
API_VERSION = "2023-01-01-preview"
CACHED_FOR = 24 * 3600
"""Seconds. On-demand prices change a few times a year, spot prices once or twice a day."""
ATTEMPTS = 3
MOST_PAGES = 100
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
PATIENCE = 15.0


class PricesUnavailable(Exception):
    """The price list did not answer, or not in the form that is known; the message is one line."""


class Item(BaseModel):
    """What is read of one meter."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    armSkuName: str  # noqa: N815 - the API's name
    retailPrice: float = Field(ge=0)  # noqa: N815
    currencyCode: str  # noqa: N815
    armRegionName: str  # noqa: N815
    productName: str  # noqa: N815
    skuName: str  # noqa: N815
    unitOfMeasure: str  # noqa: N815
    isPrimaryMeterRegion: bool = True  # noqa: N815


class Page(BaseModel):
    """One page of the list."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    Items: tuple[Item, ...]
    NextPageLink: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetailPrices:
    """The price list of one region, asked at most once a day."""

    cache: Path
    host: str = HOST
    currency: str = "USD"
    most_pages: int = MOST_PAGES

    async def of(self, region: str, *, spot: bool = False) -> Mapping[str, Price]:
        """On-demand or spot prices by instance type in lower case. Raises PricesUnavailable."""
        items, day = self._remembered(region) or await self._asked(region)
        return {item.armSkuName.lower(): _price(item, day, spot=spot) for item in items if _is_meant(item, spot=spot)}

    def _remembered(self, region: str) -> tuple[tuple[Item, ...], date] | None:
        """What was asked for within a day; anything unreadable counts as nothing."""
        file = self._file(region)
        try:
            written = file.stat().st_mtime
            page = Page.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None
        fresh = 0 <= time.time() - written < CACHED_FOR
        return (page.Items, datetime.fromtimestamp(written, UTC).date()) if fresh else None

    async def _asked(self, region: str) -> tuple[tuple[Item, ...], date]:
        async with httpx.AsyncClient(timeout=PATIENCE, follow_redirects=False) as client:
            items = tuple([item async for page in self._pages(client, region) for item in page.Items])
        self._remember(region, items)
        return items, datetime.now(UTC).date()

    async def _pages(self, client: httpx.AsyncClient, region: str) -> AsyncIterator[Page]:
        meant = f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and priceType eq 'Consumption'"
        query = {"api-version": API_VERSION, "currencyCode": f"'{self.currency}'", "$filter": meant}
        url = str(httpx.URL(self.host + PATH, params=query))
        for _ in range(self.most_pages):
            page = await _page(client, url)
            yield page
            if not page.NextPageLink:
                return
            url = self._on_the_same_host(page.NextPageLink)
        raise PricesUnavailable(f"the price list has more than {self.most_pages} pages for {region}")

    def _on_the_same_host(self, link: str) -> str:
        """A link may not lead elsewhere; the real one names its port, which the first address did not."""
        there = httpx.URL(link)
        if there.host != httpx.URL(self.host).host:
            raise PricesUnavailable(f"the price list continues on another host, {there.host}")
        return link

    def _file(self, region: str) -> Path:
        return self.cache / f"azure-{region}-{self.currency}.json"

    def _remember(self, region: str, items: tuple[Item, ...]) -> None:
        """A cache that cannot be written is none; the answer is there all the same."""
        file = self._file(region)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(Page(Items=items).model_dump_json())
            part.replace(file)
        except OSError:
            return


async def _page(client: httpx.AsyncClient, url: str) -> Page:
    """One page, asked for again after a pause when the list is busy."""
    pause, told = FIRST_PAUSE, ""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(min(pause, LONGEST_PAUSE))
            pause *= 2
        try:
            answer = await client.get(url)
        except httpx.HTTPError as error:
            told = f"{type(error).__name__}: {error}"
            continue
        if answer.status_code == httpx.codes.OK:
            return _read(answer)
        told = f"HTTP {answer.status_code}"
        if answer.status_code != httpx.codes.TOO_MANY_REQUESTS and answer.status_code < 500:
            break
        pause = _asked_to_wait(answer) or pause
    raise PricesUnavailable(f"Azure's price list did not answer ({told})")


def _read(answer: httpx.Response) -> Page:
    try:
        return Page.model_validate(json.loads(answer.content))
    except (ValidationError, ValueError) as error:
        first: Any = error.errors()[0]["loc"] if isinstance(error, ValidationError) else "no JSON"
        raise PricesUnavailable(f"Azure's price list answers in a form that is not known ({first})") from error


def _asked_to_wait(answer: httpx.Response) -> float:
    told = answer.headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else 0.0


def _is_meant(item: Item, *, spot: bool) -> bool:
    """Linux machines by the hour; Low Priority is what spot was before."""
    plain = "Windows" not in item.productName and "Low Priority" not in item.skuName
    hourly = item.unitOfMeasure == "1 Hour" and item.retailPrice > 0 and bool(item.armSkuName)
    return plain and hourly and item.isPrimaryMeterRegion and ("Spot" in item.skuName) == spot


def _price(item: Item, day: date, *, spot: bool) -> Price:
    return Price(hourly=item.retailPrice, currency=item.currencyCode, region=item.armRegionName, as_of=day, spot=spot)
