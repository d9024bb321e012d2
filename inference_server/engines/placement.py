"""Where the native engine computes, and in which numbers."""

import torch

from inference_server.engines import precision
from inference_server.engines.native import linear
from inference_server.settings import Settings


def device(settings: Settings) -> torch.device:
    """The card that is named or the first one; the processors where there is none, or by ``--device_map=cpu``."""
    if settings.device_map == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    card = torch.device(settings.device_map if ":" in settings.device_map else "cuda:0")
    torch.cuda.set_device(card)
    return card


def dtype(settings: Settings, on: torch.device, *, family: str) -> torch.dtype:
    """As asked for; otherwise bfloat16 where it is computed in hardware."""
    wanted = "bfloat16" if settings.torch_dtype == "auto" else settings.torch_dtype
    if on.type == "cpu":
        return torch.bfloat16 if wanted == "bfloat16" and linear.cpu_has_bf16() else torch.float32
    found = precision.for_card(wanted, on, family=family)
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(found, torch.float16)
