"""status.estimate: what a Workspace takes and costs, worked out from the catalogue before anything is bought."""

from functools import lru_cache
from typing import Any

from kaito_operator.api.spec import Resource
from kaito_operator.workspace.task import ServedPreset, Task
from presets.catalog import Catalog, InstanceType, Model
from presets.training_config import TrainingConfig, parse
from presets.tuning_asked import memory_gib

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
        "memoryGiB": _memory(asked, asked.served.model, gpus=gpus),
    }
    if size is None:
        return told
    price = catalog.price(size)
    return {**told, "pricePerHour": str(price.times(resource.count)) if price else UNKNOWN}


def _memory(asked: Task, model: Model, *, gpus: int) -> int:
    """Of the training; and of what is served afterwards on the same machine, if that is more: four bits are trained on,
    and sixteen are served."""
    if asked.tuned is None:
        return model.total_memory_gib
    training = memory_gib(model, _config(asked.tuned.config, asked.tuned.tuning.method.lower()), gpus=gpus)
    return max(training, model.total_memory_gib) if asked.serves else training


@lru_cache(maxsize=64)
def _config(text: str, method: str) -> TrainingConfig:
    """Every pass asks; the text was judged before."""
    return parse(text, method=method)
