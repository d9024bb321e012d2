"""What Azure asks for its machines today: the Retail Prices API, which needs no account, behind a cache on disk.

https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from presets.prices.price import Price

HOST = "https://prices.azure.com"
CACHED_FOR = 24 * 3600
"""Seconds. On-demand prices change a few times a year, spot prices once or twice a day."""
MOST_PAGES = 100


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
        from presets.prices import price_list  # a cached answer needs no HTTP library

        items = await price_list.items(self.host, region, currency=self.currency, most_pages=self.most_pages)
        self._remember(region, items)
        return items, datetime.now(UTC).date()

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


def _is_meant(item: Item, *, spot: bool) -> bool:
    """Linux machines by the hour; Low Priority is what spot was before."""
    plain = "Windows" not in item.productName and "Low Priority" not in item.skuName
    hourly = item.unitOfMeasure == "1 Hour" and item.retailPrice > 0 and bool(item.armSkuName)
    return plain and hourly and item.isPrimaryMeterRegion and ("Spot" in item.skuName) == spot


def _price(item: Item, day: date, *, spot: bool) -> Price:
    return Price(hourly=item.retailPrice, currency=item.currencyCode, region=item.armRegionName, as_of=day, spot=spot)
