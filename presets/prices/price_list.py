"""The Retail Prices API over HTTP: page after page of one region's meters, asked for again while it is busy.

https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices
"""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit

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
    pages = _pages(host, _address(host, region, currency), most_pages)
    return tuple([item async for page in pages for item in page.Items])


def _address(host: str, region: str, currency: str) -> str:
    meant = f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and priceType eq 'Consumption'"
    query = {"api-version": API_VERSION, "currencyCode": f"'{currency}'", "$filter": meant}
    return f"{host}{PATH}?{urlencode(query)}"


async def _pages(host: str, url: str, most: int) -> AsyncIterator[Page]:
    for _ in range(most):
        page = await _page(url)
        yield page
        if not page.NextPageLink:
            return
        url = _on_the_same_host(host, page.NextPageLink)
    raise PricesUnavailable(f"the price list has more than {most} pages")


def _on_the_same_host(host: str, link: str) -> str:
    """A link may not lead elsewhere; the real one names its port, which the first address did not."""
    here, there = urlsplit(host), urlsplit(link)
    if (there.scheme, there.hostname) != (here.scheme, here.hostname):
        raise PricesUnavailable(f"the price list continues on another host, {there.hostname}")
    return link


async def _page(url: str) -> Page:
    """One page, asked for again after a pause when the list is busy."""
    pause, told = FIRST_PAUSE, ""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(min(pause, LONGEST_PAUSE))
            pause *= 2
        try:
            return _read(await asyncio.to_thread(_get, url))
        except HTTPError as refused:
            told = f"HTTP {refused.code}"
            if refused.code != HTTPStatus.TOO_MANY_REQUESTS and refused.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                break
            pause = _asked_to_wait(refused) or pause
        except (OSError, HTTPException) as error:
            cause = getattr(error, "reason", error)  # what a URLError is about
            told = f"{type(cause).__name__}: {cause}"
    raise PricesUnavailable(f"Azure's price list did not answer ({told})")


class _NoRedirect(request.HTTPRedirectHandler):
    """A redirect is an answer like any other: nothing leads elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str) -> bytes:
    """The standard library's HTTP, which is loaded in a tenth of the time of others: people wait for this command."""
    with request.build_opener(_NoRedirect).open(url, timeout=PATIENCE) as answer:
        content: bytes = answer.read()
    return content


def _read(content: bytes) -> Page:
    try:
        return Page.model_validate(json.loads(content))
    except (ValidationError, ValueError) as error:
        first: Any = error.errors()[0]["loc"] if isinstance(error, ValidationError) else "no JSON"
        raise PricesUnavailable(f"Azure's price list answers in a form that is not known ({first})") from error


def _asked_to_wait(answer: HTTPError) -> float:
    told = answer.headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else 0.0
