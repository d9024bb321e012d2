"""Which engine runs the model, and why, in one line."""

from collections.abc import Callable

from inference_server.engines.engine import Engine
from inference_server.engines.native_engine import NativeEngine
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings


class NoSuchEngine(Exception):
    """The engine asked for is not to be had; the message says which are."""


def choose(settings: Settings, *, say: Callable[[str], None]) -> Engine:
    """The engine for these settings, not yet started. Raises NoSuchEngine."""
    if settings.engine == "vllm":
        raise NoSuchEngine("--engine=vllm is not in this version; use auto, native or transformers")
    if settings.engine == "native":
        say("engine native (asked for), requests batched continuously")
        return NativeEngine(settings)
    why = "asked for" if settings.engine == "transformers" else "it runs every architecture"
    say(f"engine transformers ({why}), one request at a time")
    return TransformersEngine(settings)
