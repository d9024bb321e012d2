"""Which engine runs the model, and why, in one line."""

from collections.abc import Callable

from inference_server.engines.engine import Engine
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings


class NoSuchEngine(Exception):
    """The engine asked for is not to be had; the message says which are."""


def choose(settings: Settings, *, say: Callable[[str], None]) -> Engine:
    """The engine for these settings, not yet started. Raises NoSuchEngine."""
    if settings.engine in {"native", "vllm"}:
        raise NoSuchEngine(f"--engine={settings.engine} is not in this version; use auto or transformers")
    why = "asked for" if settings.engine == "transformers" else "it runs every architecture"
    say(f"engine transformers ({why}), one request at a time")
    return TransformersEngine(settings)
