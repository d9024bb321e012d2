"""Whether Azure would refuse a machine size, from what it says of sizes and usages: asked before any PUT is sent.

Of launches that fail upstream nearly all fail for quota (karpenter-provider-azure, designs/0012): each would have cost
one of the twenty PUTs that AKS lets through.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kaito_operator.gpu_provisioner.errors import Refusal, classified

REGIONAL, SPOT = "cores", "lowPriorityCores"
"""Names of usages that are not of one family."""
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """What Azure says of a machine size in one region."""

    family: str
    vcpus: int
    restricted: bool
    """Whether the subscription may not have it in the whole region; restrictions of single zones do not count."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How many vCPUs are in use, and how many may be."""

    used: int
    limit: int


def sizes_of(skus: Iterable[Json]) -> dict[str, Size]:
    """Sizes by name in lower case, from the answer of Microsoft.Compute/skus."""
    return {
        sku["name"].lower(): Size(sku.get("family", ""), _vcpus(sku), any(map(_whole, sku.get("restrictions") or ())))
        for sku in skus
        if sku.get("resourceType") == "virtualMachines"
    }


def usages_of(usages: Iterable[Json]) -> dict[str, Usage]:
    """Usages by name in lower case, from the answer of Microsoft.Compute/locations/usages."""
    return {u["name"]["value"].lower(): Usage(int(u["currentValue"]), int(u["limit"])) for u in usages}


def outlook(
    vm_size: str, *, spot: bool, sizes: Mapping[str, Size], usages: Mapping[str, Usage], location: str
) -> Refusal | None:
    """Why a machine of the size would be refused; None if nothing is known against it."""
    size = sizes.get(vm_size.lower())
    if size is None:
        return None if not sizes else _not_here(vm_size, location)
    if size.restricted:
        return _not_here(vm_size, location)
    for name in (SPOT,) if spot else (size.family, REGIONAL):
        usage = usages.get(name.lower())
        if usage is not None and usage.used + size.vcpus > usage.limit:
            told = f"{name}: {vm_size} needs {size.vcpus} vCPUs, {usage.used} of {usage.limit} are in use"
            message = f"{told} in {location}. Current Limit: {usage.limit}, Current Usage: {usage.used}"
            return classified(409, {"code": "QuotaExceeded", "message": message})
    return None


def _not_here(vm_size: str, location: str) -> Refusal:
    message = f"{vm_size} is not offered to this subscription in {location}"
    return classified(400, {"code": "SkuNotAvailable", "message": message})


def _vcpus(sku: Json) -> int:
    found = (c["value"] for c in sku.get("capabilities") or () if c["name"] == "vCPUs")
    return int(next(found, 0))


def _whole(restriction: Json) -> bool:
    return bool(restriction.get("type") == "Location")
