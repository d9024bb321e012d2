"""LoRA adapters over a model of transformers: which directories fit, why others do not, and their exact weighted sum.

An adapter adds ``x·A·B`` to what a layer returns, by a hook on the layer; the model's own weights stay as they are, so
each request can choose. Only safetensors are read, and of adapter_config.json only what changes the numbers.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

log = logging.getLogger(__name__)

COMBINED = "combined_adapter"
"""The name of the weighted sum, as KAITO has it."""
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
OTHER_KINDS = ("use_dora", "use_qalora", "use_bdlora", "lora_bias", "arrow_config", "alora_invocation_tokens",
               "layer_replication", "modules_to_save", "trainable_token_indices")  # fmt: skip
"""Settings of peft's LoraConfig under which the sum below is not what was trained."""


class DoesNotFit(Exception):
    """An adapter that cannot be served on this model; the message says why."""


class LoraSettings(BaseModel):
    """What counts in adapter_config.json."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    lora_alpha: float = 8
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    use_rslora: bool = False
    bias: str = "none"
    base_model_name_or_path: str | None = None

    def scale(self, layer: str, *, rank: int) -> float:
        """What B·A is multiplied by at this layer (peft's rule; rsLoRA divides by the root of the rank)."""
        patterns = (value for key, value in self.alpha_pattern.items() if re.match(rf"(.*\.)?({key})$", layer))
        return next(patterns, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added at one layer: ``down`` is [rank, in], ``up`` is [out, rank] with the scale in it, both float32."""

    down: torch.Tensor
    up: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The addition to the layer's output for ``x`` [..., in]."""
        return torch.nn.functional.linear(torch.nn.functional.linear(x.float(), self.down), self.up)


Layers = Mapping[str, LowRank]


class Adapters:
    """The adapters of one model. ``refused`` says for each directory that is not served why."""

    def __init__(self, model: Any, *, directory: Path, strengths: Mapping[str, float]) -> None:
        self._of: dict[str, Layers] = {}
        self.refused: dict[str, str] = {}
        self._active: Layers = {}
        modules = dict(model.named_modules())
        for each in _directories(directory):
            self._take(each, modules=modules)
        self.default = self._combine(strengths) if strengths else None
        if not strengths and len(self._of) == 1:
            self.default = next(iter(self._of))
        for layer in {layer for layers in self._of.values() for layer in layers}:
            modules[layer].register_forward_hook(self._hook(layer))

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for by name."""
        return tuple(self._of)

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Within this, the model answers with that adapter; None is the base model."""
        self._active = self._of[name] if name else {}
        try:
            yield
        finally:
            self._active = {}

    def _take(self, directory: Path, *, modules: Mapping[str, Any]) -> None:
        try:
            self._of[directory.name] = read(directory, modules=modules)
        except DoesNotFit as error:
            self.refused[directory.name] = str(error)
            log.error("the adapter %s is not served: %s", directory.name, error)
        else:
            log.info("the adapter %s is served", directory.name)

    def _combine(self, strengths: Mapping[str, float]) -> str | None:
        """Adds the weighted sum. A strength whose adapter is not here counts for nothing, and is said."""
        for name in strengths.keys() - self._of.keys():
            self.refused.setdefault(name, "--adapter_strength names it, but there is no such adapter")
            log.error("--adapter_strength=%s: there is no such adapter", name)
        weights = {name: weight for name, weight in strengths.items() if name in self._of}
        if not weights:
            return None
        self._of[COMBINED] = weighted({name: self._of[name] for name in weights}, weights=weights)
        log.info("the default model is %s: %s", COMBINED, ", ".join(f"{n} at {w:g}" for n, w in weights.items()))
        return COMBINED

    def _hook(self, layer: str) -> Any:
        def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            addition = self._active.get(layer)
            return output if addition is None else (output + addition(inputs[0])).to(output.dtype)

        return add


def weighted(parts: Mapping[str, Layers], *, weights: Mapping[str, float]) -> Layers:
    """The exact weighted sum of adapters: the ranks of each layer side by side (peft calls it "cat")."""
    combined: dict[str, LowRank] = {}
    for layer in {layer: None for layers in parts.values() for layer in layers}:
        here = [(of[layer], weights[name]) for name, of in parts.items() if layer in of]
        downs, ups = [part.down for part, _ in here], [part.up * weight for part, weight in here]
        combined[layer] = LowRank(torch.cat(downs), torch.cat(ups, dim=1))
    return combined


def read(directory: Path, *, modules: Mapping[str, Any]) -> Layers:
    """An adapter's layers for a model of these modules. Raises DoesNotFit."""
    if not NAME.fullmatch(directory.name) or directory.name == COMBINED:
        raise DoesNotFit("its directory's name cannot be a model's name: use letters, digits, '-', '.' and '_'")
    settings = _settings(directory / CONFIG)
    halves = _tensors(directory / WEIGHTS)
    of = f"; it was tuned on {settings.base_model_name_or_path}" if settings.base_model_name_or_path else ""
    return {layer: _fitted(layer, settings, pair, modules.get(layer), of) for layer, pair in halves.items()}


def _directories(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(each for each in directory.iterdir() if (each / CONFIG).is_file())


def _settings(path: Path) -> LoraSettings:
    try:
        written = json.loads(path.read_text())
        settings = LoraSettings.model_validate(written)
        for pattern in settings.alpha_pattern:
            re.compile(pattern)
    except ValidationError as error:
        problem = error.errors()[0]
        raise DoesNotFit(f"{CONFIG}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    except (OSError, ValueError, RecursionError, re.error) as error:
        raise DoesNotFit(f"{CONFIG} cannot be read: {type(error).__name__}") from error
    if other := [key for key in OTHER_KINDS if written.get(key)]:
        raise DoesNotFit(f"{CONFIG}: {other[0]} is not supported: tune with plain LoRA of linear layers")
    if settings.bias != "none":
        raise DoesNotFit(f"{CONFIG}: bias={settings.bias} is not supported: tune with bias=none")
    return settings


def _tensors(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Layer → its halves A and B."""
    if not path.is_file():
        raise DoesNotFit(f"it has no {WEIGHTS}; other formats (adapter_model.bin) are pickles and are not read")
    halves: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (a safe_open is no mapping)
                if not (found := TENSOR.fullmatch(key)):
                    raise DoesNotFit(f"its tensor {key} is not one of LoRA on a linear layer")
                tensor: torch.Tensor = file.get_tensor(key)
                halves.setdefault(found["layer"], {})[found["half"]] = tensor
    except (SafetensorError, OSError) as error:
        raise DoesNotFit(f"{WEIGHTS} cannot be read: {error}") from error
    if not halves:
        raise DoesNotFit(f"{WEIGHTS} has no tensors")
    return halves


def _fitted(layer: str, settings: LoraSettings, pair: Mapping[str, torch.Tensor], module: Any, of: str) -> LowRank:
    if not (size := _size(module)):
        raise DoesNotFit(f"this model has no linear layer {layer}{of}: serve it on the model it was tuned on")
    if pair.keys() != {"A", "B"}:
        raise DoesNotFit(f"{layer} has lora_{min(pair)} alone: the file is not complete")
    down, up = pair["A"], pair["B"]
    if down.ndim != 2 or up.ndim != 2 or (down.shape[1], up.shape[0], up.shape[1]) != (*size, down.shape[0]):
        shapes = f"A {list(down.shape)} and B {list(up.shape)} do not fit {size[0]} inputs and {size[1]} outputs"
        raise DoesNotFit(f"{layer}: {shapes}{of}: serve it on the model it was tuned on")
    down, up = down.float(), up.float() * settings.scale(layer, rank=down.shape[0])
    if not (down.isfinite().all() and up.isfinite().all()):
        raise DoesNotFit(f"{layer} has numbers that are not finite: the training went wrong")
    device = module.weight.device
    return LowRank(down.to(device), up.to(device))


def _size(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, quantised ones included; None for anything else."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # of transformers: GPT-2's linear layer, with its weight [in, out]
        return module.nx, module.nf
    return None
