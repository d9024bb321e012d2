"""The Retail Prices API over HTTP: page after page of one region's meters, asked for again while it is busy.

https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from pydantic import ValidationError

from presets.prices.azure_retail import Item, Page, PricesUnavailable

PATH = "/api/retail/prices"
API_VERSION = "2023-01-01-preview"
ATTEMPTS = 3
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
PATIENCE = 15.0


async def items(host: str, region: str, *, currency: str, most_pages: int) -> tuple[Item, ...]:
    """All meters of virtual machines in a region. Raises PricesUnavailable."""
    async with httpx.AsyncClient(timeout=PATIENCE, follow_redirects=False) as client:
        pages = _pages(client, host, _address(host, region, currency), most_pages)
        found = [item async for page in pages for item in page.Items]
    return tuple(found)


def _address(host: str, region: str, currency: str) -> str:
    meant = f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and priceType eq 'Consumption'"
    query = {"api-version": API_VERSION, "currencyCode": f"'{currency}'", "$filter": meant}
    return str(httpx.URL(host + PATH, params=query))


async def _pages(client: httpx.AsyncClient, host: str, url: str, most: int) -> AsyncIterator[Page]:
    for _ in range(most):
        page = await _page(client, url)
        yield page
        if not page.NextPageLink:
            return
        url = _on_the_same_host(host, page.NextPageLink)
    raise PricesUnavailable(f"the price list has more than {most} pages")


def _on_the_same_host(host: str, link: str) -> str:
    """A link may not lead elsewhere; the real one names its port, which the first address did not."""
    there = httpx.URL(link)
    if there.host != httpx.URL(host).host:
        raise PricesUnavailable(f"the price list continues on another host, {there.host}")
    return link


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
