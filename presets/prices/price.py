"""A price with all that belongs to it, and the dated tables for when nobody can be asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

HERE = Path(__file__).parent
HOURS_A_MONTH = 730
"""Of an average month, as the price calculators of both clouds have it."""
Cloud = Literal["azure", "aws"]
DEFAULT_REGION: Mapping[Cloud, str] = {"azure": "eastus", "aws": "us-east-1"}


class PriceTableError(Exception):
    """A bundled table is broken; the message names file and field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one machine for an hour; what it is for and how old it is are part of it."""

    hourly: float
    currency: str
    region: str
    as_of: date
    spot: bool = False

    @property
    def monthly(self) -> float:
        """Of a machine that runs all the time."""
        return self.hourly * HOURS_A_MONTH

    def times(self, machines: int) -> "Price":
        """Of so many of them."""
        return Price(
            hourly=self.hourly * machines,
            currency=self.currency,
            region=self.region,
            as_of=self.as_of,
            spot=self.spot,
        )

    def __str__(self) -> str:
        kind = "spot, " if self.spot else ""
        return f"{self.hourly:.2f} {self.currency} an hour ({kind}{self.region}, {self.as_of:%Y-%m-%d})"


class PriceTable(BaseModel):
    """On-demand prices of one region on one day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cloud: Cloud
    region: str
    currency: str
    as_of: date
    hourly: Mapping[str, float] = Field(min_length=1)

    def price(self, instance_type: str) -> Price | None:
        """Of this size; None if it is not known."""
        hourly = {name.lower(): value for name, value in self.hourly.items()}.get(instance_type.lower())
        if hourly is None:
            return None
        return Price(hourly=hourly, currency=self.currency, region=self.region, as_of=self.as_of)


@lru_cache(maxsize=2)
def bundled(cloud: Cloud) -> PriceTable:
    """The table that came with this version. Raises PriceTableError."""
    return read_prices(HERE / f"{cloud}.yaml")


def read_prices(path: Path) -> PriceTable:
    """A table. Raises PriceTableError."""
    try:
        return PriceTable.model_validate(yaml.safe_load(path.read_bytes()))
    except yaml.YAMLError as error:
        raise PriceTableError(f"{path.name}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise PriceTableError(f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def known(cloud: Cloud, region: str) -> Mapping[str, Price]:
    """The bundled prices of a region by instance type in lower case; none for other regions: prices differ."""
    table = bundled(cloud)
    if region != table.region:
        return {}
    found = {name: table.price(name) for name in table.hourly}
    return {name.lower(): price for name, price in found.items() if price is not None}
