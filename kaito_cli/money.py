"""Where the prices of a command come from: Azure's price list, its copy on disk, or the dated table of this version."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from presets.prices.price import DEFAULT_REGION, Cloud, Price, bundled, known

CloudOption = Annotated[Cloud, typer.Option("--cloud", help="Whose machines.")]
Region = Annotated[str, typer.Option("--region", help="Prices of this region; the cloud's first one if none is named.")]
Spot = Annotated[bool, typer.Option("--spot", help="Spot prices, which Azure's price list alone knows.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask nobody: the dated prices of this version.")]
PRICE_LIST = "KAITO_PRICE_LIST"
"""Environment variable: another address of the Azure Retail Prices API, for a proxy."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by instance type in lower case, and one line on them if there is something to know."""

    by_size: Mapping[str, Price]
    remark: str = ""


def prices(cloud: Cloud, region: str, *, spot: bool, offline: bool) -> Prices:
    """Of a region. What cannot be known stays unknown, and the remark says so."""
    region = region or DEFAULT_REGION[cloud]
    if cloud == "azure" and not offline:
        return _asked(region, spot=spot)
    return _bundled(cloud, region, spot=spot)


def _asked(region: str, *, spot: bool) -> Prices:
    import asyncio

    from presets.prices.azure_retail import HOST, PricesUnavailable, RetailPrices

    source = RetailPrices(cache=cache() / "prices", host=os.environ.get(PRICE_LIST, HOST))
    try:
        found = asyncio.run(source.of(region, spot=spot))
    except PricesUnavailable as silent:
        dated = _bundled("azure", region, spot=spot)
        instead = dated.remark or f"prices are of {bundled('azure').as_of}"
        return Prices(dated.by_size, f"{silent}: {instead}")
    return Prices(found, "" if found else f"Azure's price list knows no region {region!r}")


def _bundled(cloud: Cloud, region: str, *, spot: bool) -> Prices:
    if spot:
        return Prices({}, "spot prices are known online and for Azure alone")
    found = known(cloud, region)
    return Prices(found, "" if found else f"offline, prices are known for {bundled(cloud).region} alone")


def cache() -> Path:
    """The directory of what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kaito"
