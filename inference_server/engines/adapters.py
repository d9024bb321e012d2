"""LoRA adapters: which directories fit a model, why others do not, and their exact weighted sum.

An adapter adds ``x·A·B`` to what a layer returns, in transformers by a hook on the layer; the model's own weights stay
as they are, so each request can choose. Only safetensors are read, and of adapter_config.json only what changes
numbers.
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

    def to(self, device: torch.device) -> "LowRank":
        """The same there."""
        return LowRank(self.down.to(device), self.up.to(device))


Layers = Mapping[str, LowRank]


class Found:
    """The adapters of one directory that fit a model; ``sizes`` has its linear modules, each with inputs and outputs.

    ``layers`` are theirs by name, ``refused`` says for each directory that is not served why, and ``strengths`` are
    those of the mix, empty where there is none.
    """

    def __init__(
        self, directory: Path, *, sizes: Mapping[str, tuple[int, int]], strengths: Mapping[str, float]
    ) -> None:
        self.layers: dict[str, Layers] = {}
        self.refused: dict[str, str] = {}
        for each in _directories(directory):
            self._take(each, sizes=sizes)
        for name in strengths.keys() - self.layers.keys():
            self.refused.setdefault(name, "--adapter_strength names it, but there is no such adapter")
            log.error("--adapter_strength=%s: there is no such adapter", name)
        self.strengths = {name: weight for name, weight in strengths.items() if name in self.layers}
        if self.strengths:
            log.info("the default model is %s: %s", COMBINED, ", ".join(f"{n} at {w:g}" for n, w in strengths.items()))
        self._no_strengths = not strengths

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for by name."""
        return (*self.layers, COMBINED) if self.strengths else tuple(self.layers)

    @property
    def default(self) -> str | None:
        """What answers where a request names none: the mix, or the only one; None is the base model."""
        if self.strengths:
            return COMBINED
        return next(iter(self.layers)) if self._no_strengths and len(self.layers) == 1 else None

    def _take(self, directory: Path, *, sizes: Mapping[str, tuple[int, int]]) -> None:
        try:
            self.layers[directory.name] = read(directory, sizes=sizes)
        except DoesNotFit as error:
            self.refused[directory.name] = str(error)
            log.error("the adapter %s is not served: %s", directory.name, error)
        else:
            log.info("the adapter %s is served", directory.name)


class Adapters:
    """The adapters of one model of transformers, added by hooks on its layers."""

    def __init__(self, model: Any, *, directory: Path, strengths: Mapping[str, float]) -> None:
        modules = dict(model.named_modules())
        found = Found(directory, sizes=sizes(modules), strengths=strengths)
        self.names, self.default, self.refused = found.names, found.default, found.refused
        self._of = found.layers
        if found.strengths:
            mixed = {name: found.layers[name] for name in found.strengths}
            self._of = {**self._of, COMBINED: weighted(mixed, weights=found.strengths)}
        self._of = {
            name: {layer: part.to(modules[layer].weight.device) for layer, part in layers.items()}
            for name, layers in self._of.items()
        }
        self._active: Layers = {}
        for layer in {layer for layers in self._of.values() for layer in layers}:
            modules[layer].register_forward_hook(self._hook(layer))

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Within this, the model answers with that adapter; None is the base model."""
        self._active = self._of[name] if name else {}
        try:
            yield
        finally:
            self._active = {}

    def _hook(self, layer: str) -> Any:
        def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            addition = self._active.get(layer)
            return output if addition is None else (output + addition(inputs[0])).to(output.dtype)

        return add


def sizes(modules: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The linear ones among a model's modules, with their inputs and outputs."""
    return {name: size for name, module in modules.items() if (size := _size(module))}


def weighted(parts: Mapping[str, Layers], *, weights: Mapping[str, float]) -> Layers:
    """The exact weighted sum of adapters: the ranks of each layer side by side (peft calls it "cat")."""
    combined: dict[str, LowRank] = {}
    for layer in {layer: None for layers in parts.values() for layer in layers}:
        here = [(of[layer], weights[name]) for name, of in parts.items() if layer in of]
        downs, ups = [part.down for part, _ in here], [part.up * weight for part, weight in here]
        combined[layer] = LowRank(torch.cat(downs), torch.cat(ups, dim=1))
    return combined


def read(directory: Path, *, sizes: Mapping[str, tuple[int, int]]) -> Layers:
    """An adapter's layers for a model of linear modules of these sizes. Raises DoesNotFit."""
    if not NAME.fullmatch(directory.name) or directory.name == COMBINED:
        raise DoesNotFit("its directory's name cannot be a model's name: use letters, digits, '-', '.' and '_'")
    settings = _settings(directory / CONFIG)
    halves = _tensors(directory / WEIGHTS)
    of = f"; it was tuned on {settings.base_model_name_or_path}" if settings.base_model_name_or_path else ""
    return {layer: _fitted(layer, settings, pair, sizes.get(layer), of) for layer, pair in halves.items()}


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


def _fitted(
    layer: str, settings: LoraSettings, pair: Mapping[str, torch.Tensor], size: tuple[int, int] | None, of: str
) -> LowRank:
    if not size:
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
    return LowRank(down, up)


def _size(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, quantised ones included; None for anything else."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # of transformers: GPT-2's linear layer, with its weight [in, out]
        return module.nx, module.nf
    return None
