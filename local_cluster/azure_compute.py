"""What Microsoft.Compute says of a region: the sizes on offer with their restrictions, and vCPUs in use and allowed."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from local_cluster.azure_behaviour import PLENTY, Behaviour
from local_cluster.azure_rules import NotAllowed
from presets.catalog import load_catalog

REGIONAL, SPOT = "cores", "lowPriorityCores"
SIZE = re.compile(r"Standard_(?P<series>[A-Z]+)\d+(?:-\d+)?(?P<features>[a-z]*)(?P<rest>(?:_[A-Za-z0-9]+)*)")
Properties = Mapping[str, Any]


@cache
def family_of(vm_size: str) -> str:
    """The family whose quota a size counts against, in Azure's manner: standardNCSv3Family for Standard_NC24rs_v3."""
    found = SIZE.fullmatch(vm_size)
    if found is None:
        return f"{vm_size}Family"
    return (
        f"standard{found['series']}{found['features'].replace('r', '').upper()}{found['rest'].replace('_', '')}Family"
    )


def skus(behaviour: Behaviour) -> list[dict[str, Any]]:
    """Microsoft.Compute/skus."""
    closed = {size.lower() for size in behaviour.restricted}
    return [
        _sku(
            size.name,
            {"vCPUs": size.cpus, "MemoryGB": size.memory_gib, "GPUs": size.gpus},
            behaviour.location,
            restricted=size.name.lower() in closed,
        )
        for size in load_catalog().instance_types.values()
    ]


def usages(behaviour: Behaviour, pools: Iterable[Properties]) -> list[dict[str, Any]]:
    """Microsoft.Compute/locations/{location}/usages."""
    used = _used(pools)
    names = {family_of(size) for size in load_catalog().instance_types}
    return [
        {
            "unit": "Count",
            "currentValue": used.get(name, 0),
            "limit": behaviour.quotas.get(name, PLENTY),
            "name": {"value": name, "localizedValue": name},
        }
        for name in (REGIONAL, SPOT, *sorted(names | set(behaviour.quotas) - {REGIONAL, SPOT}))
    ]


def refused(behaviour: Behaviour, pools: Iterable[Properties], wanted: Properties) -> NotAllowed | None:
    """Why a new pool cannot be had: its size is restricted, or a quota is used up."""
    size = wanted["vmSize"]
    if size.lower() in {each.lower() for each in behaviour.restricted}:
        told = f"The VM size of {size} is not allowed in your subscription in location '{behaviour.location}'."
        return NotAllowed(
            400, "BadRequest", f"{told} For more details on cpu quota, check http://aka.ms/corequotaincrease."
        )
    used, more = _used(pools), _used([wanted])
    for name, vcpus in more.items():
        limit = behaviour.quotas.get(name, PLENTY)
        if used.get(name, 0) + vcpus > limit:
            return _over(name, used=used.get(name, 0), more=vcpus, limit=limit, location=behaviour.location)
    return None


def _over(name: str, *, used: int, more: int, limit: int, location: str) -> NotAllowed:
    """In the words of Azure (kaito #344, karpenter-provider-azure #192)."""
    what = "Total Regional Cores" if name == REGIONAL else name if name == SPOT else f"{name} Cores"
    return NotAllowed(
        409,
        "OperationNotAllowed",
        f"Operation could not be completed as it results in exceeding approved {what} quota. Additional details - "
        f"Deployment Model: Resource Manager, Location: {location}, Current Limit: {limit}, Current Usage: {used}, "
        f"Additional Required: {more}, (Minimum) New Limit Required: {used + more}. "
        "Submit a request for Quota increase at https://aka.ms/ProdportalCRP/.",
    )


def _used(pools: Iterable[Properties]) -> dict[str, int]:
    """vCPUs by quota. Spot machines count against a quota of their own."""
    used: dict[str, int] = {}
    for pool in pools:
        size = load_catalog().instance_type(pool["vmSize"])
        vcpus = pool.get("count", 1) * (size.cpus if size else 0)
        spot = pool.get("scaleSetPriority") == "Spot"
        for name in (SPOT,) if spot else (REGIONAL, family_of(pool["vmSize"])):
            used[name] = used.get(name, 0) + vcpus
    return used


def _sku(name: str, has: Mapping[str, int], location: str, *, restricted: bool) -> dict[str, Any]:
    restriction = {
        "type": "Location",
        "values": [location],
        "restrictionInfo": {"locations": [location]},
        "reasonCode": "NotAvailableForSubscription",
    }
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "tier": "Standard",
        "size": name.removeprefix("Standard_"),
        "family": family_of(name),
        "locations": [location],
        "capabilities": [{"name": what, "value": str(amount)} for what, amount in has.items()],
        "restrictions": [restriction] if restricted else [],
    }
