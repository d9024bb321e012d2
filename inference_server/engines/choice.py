"""Which engine runs the model, and why, in one line."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from inference_server.engines import vllm_arguments
from inference_server.engines.engine import Engine
from inference_server.engines.native import architecture
from inference_server.engines.native_engine import NativeEngine
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.engines.vllm_engine import VllmEngine
from inference_server.settings import Settings

GPU = Path("/dev/nvidia0")
"""Where the driver shows a card. Asking torch would take a second before the port is open."""


class NoSuchEngine(Exception):
    """The engine asked for is not to be had; the message says which are."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the choice depends on besides the settings."""

    gpu: bool
    vllm: bool

    @classmethod
    def here(cls) -> "Machine":
        """This one. vLLM is looked for and not imported: that would take seconds before the port is open."""
        return cls(gpu=GPU.exists(), vllm=find_spec("vllm") is not None)


def choose(settings: Settings, *, say: Callable[[str], None], machine: Machine | None = None) -> Engine:
    """The engine for these settings, not yet started. Raises NoSuchEngine."""
    on = machine or Machine.here()
    if settings.engine == "vllm" and not on.vllm:
        raise NoSuchEngine("--engine=vllm: vLLM is not installed here; use auto, native or transformers")
    if settings.engine == "vllm" and (reason := vllm_arguments.refusal(settings, gpu=on.gpu)):
        raise NoSuchEngine(f"--engine=vllm does not go with {reason}")
    if settings.engine == "vllm":
        say("engine vllm (asked for)")
        return VllmEngine(settings)
    if settings.engine == "auto" and not _why_not_vllm(settings, on):
        say("engine vllm (it is installed, and there is a GPU)")
        return VllmEngine(settings)
    if settings.engine == "native":
        say("engine native (asked for), requests batched continuously")
        return NativeEngine(settings)
    why_not = "asked for" if settings.engine == "transformers" else _why_not_native(settings, on)
    if not why_not:
        say("engine native (the model is of a family it knows), requests batched continuously")
        return NativeEngine(settings)
    how = "one request at a time" if settings.batching == "off" else "requests batched where a check proves it right"
    say(f"engine transformers ({why_not}), {how}")
    return TransformersEngine(settings)


def _why_not_vllm(settings: Settings, on: Machine) -> str:
    """What of this model and machine vLLM is not for; nothing if it is."""
    reasons = {
        "vLLM is not installed": not on.vllm,
        "there is no GPU": not on.gpu,
        "--batching=off": settings.batching == "off",
        "it cannot do what is asked for": bool(vllm_arguments.refusal(settings, gpu=on.gpu)),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _why_not_native(settings: Settings, on: Machine) -> str:
    """What of this model and machine the native engine is not for; nothing if it is."""
    directory = Path(settings.pretrained_model_name_or_path)
    reasons = {
        "--batching=off": settings.batching == "off",
        "quantised by bitsandbytes": settings.load_in_4bit or settings.load_in_8bit,
        f"--torch_dtype={settings.torch_dtype}": settings.torch_dtype in ("float16", "float64"),
        "--trust_remote_code": settings.trust_remote_code,
        "there is a GPU": on.gpu and settings.device_map != "cpu",
        "the model is named by an id": not (directory / "config.json").is_file(),
    }
    if found := next((reason for reason, holds in reasons.items() if holds), ""):
        return found
    try:
        architecture.read(directory)
    except (architecture.Unsupported, KeyError, TypeError, ValueError, OSError) as error:
        return f"the native engine has not: {error}"
    return ""
