"""Which engine runs the model, and why, in one line."""

from collections.abc import Callable
from pathlib import Path

from inference_server.engines.engine import Engine
from inference_server.engines.native import architecture
from inference_server.engines.native_engine import NativeEngine
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings

GPU = Path("/dev/nvidia0")
"""Where the driver shows a card. Asking torch would take a second before the port is open."""


class NoSuchEngine(Exception):
    """The engine asked for is not to be had; the message says which are."""


def choose(settings: Settings, *, say: Callable[[str], None]) -> Engine:
    """The engine for these settings, not yet started. Raises NoSuchEngine."""
    if settings.engine == "vllm":
        raise NoSuchEngine("--engine=vllm is not in this version; use auto, native or transformers")
    if settings.engine == "native":
        say("engine native (asked for), requests batched continuously")
        return NativeEngine(settings)
    why_not = "asked for" if settings.engine == "transformers" else _why_not_native(settings)
    if not why_not:
        say("engine native (the model is of a family it knows), requests batched continuously")
        return NativeEngine(settings)
    say(f"engine transformers ({why_not}), one request at a time")
    return TransformersEngine(settings)


def _why_not_native(settings: Settings) -> str:
    """What of this model and machine the native engine is not for; nothing if it is."""
    directory = Path(settings.pretrained_model_name_or_path)
    reasons = {
        "--batching=off": settings.batching == "off",
        "quantised by bitsandbytes": settings.load_in_4bit or settings.load_in_8bit,
        f"--torch_dtype={settings.torch_dtype}": settings.torch_dtype in ("float16", "float64"),
        "--trust_remote_code": settings.trust_remote_code,
        "there is a GPU": GPU.exists() and settings.device_map != "cpu",
        "the model is named by an id": not (directory / "config.json").is_file(),
    }
    if found := next((reason for reason, holds in reasons.items() if holds), ""):
        return found
    try:
        architecture.read(directory)
    except (architecture.Unsupported, KeyError, TypeError, ValueError, OSError) as error:
        return f"the native engine has not: {error}"
    return ""
