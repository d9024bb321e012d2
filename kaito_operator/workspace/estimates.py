"""status.estimate: what a Workspace takes and costs, worked out from the catalogue before anything is bought."""

from typing import Any

from kaito_operator.api.spec import Resource
from kaito_operator.workspace.task import ServedPreset, Task
from presets.catalog import Catalog, InstanceType

UNKNOWN = "unknown"
"""A price nobody told us. None is ever made up."""


def estimate(
    asked: Task, resource: Resource, size: InstanceType | None, *, gpus: int, catalog: Catalog
) -> dict[str, Any] | None:
    """Of a preset; of a pod template of the user's own nothing is known. Without a size nothing is bought or priced."""
    if not isinstance(asked.served, ServedPreset):
        return None
    told = {
        "nodes": resource.count,
        "gpusPerNode": gpus,
        "memoryGiB": asked.served.model.total_memory_gib,
    }
    if size is None:
        return told
    price = catalog.price(size)
    return {**told, "pricePerHour": str(price.times(resource.count)) if price else UNKNOWN}
