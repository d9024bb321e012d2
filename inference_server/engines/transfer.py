"""A batch on its way to a card: one copy for all of its tensors, which are small and many."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from inference_server.engines.native.model import Batch


def moved(batch: Batch, device: torch.device) -> Batch:
    """``batch`` on ``device``: a copy for each dtype, from pinned memory, so that nobody waits for it."""
    parts: tuple[Any, ...] = (batch, *batch.groups)
    named = [(place, field.name) for place, part in enumerate(parts) for field in fields(part)]
    found = {key: tensor for key in named if isinstance(tensor := getattr(parts[key[0]], key[1]), Tensor)}
    there: list[dict[str, Any]] = [{} for _ in parts]
    for dtype in {tensor.dtype for tensor in found.values()}:
        own = {key: tensor for key, tensor in found.items() if tensor.dtype == dtype}
        sizes = [tensor.numel() for tensor in own.values()]
        host = torch.empty(sum(sizes), dtype=dtype, pin_memory=device.type == "cuda")
        torch.cat([tensor.flatten() for tensor in own.values()], out=host)
        views = host.to(device, non_blocking=True).split(sizes)
        for ((place, name), tensor), view in zip(own.items(), views, strict=True):
            there[place][name] = view.view(tensor.shape)
    groups = tuple(replace(group, **values) for group, values in zip(batch.groups, there[1:], strict=True))
    return replace(batch, groups=groups, **there[0])
