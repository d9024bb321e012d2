"""Adapters for vLLM: what our reader has understood and found to fit, written anew in the plainest form there is.

So what is served, refused and mixed is the same as with the other engines: patterns of ranks and scales, rsLoRA, which
vLLM's versions read differently, and the weighted sum, which it has not, are numbers by then.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from inference_server.engines.adapters import COMBINED, CONFIG, WEIGHTS, Found, Layers, LowRank, sizes, weighted
from inference_server.engines.vllm_arguments import RANKS
from inference_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Written:
    """One adapter in vLLM's form."""

    directory: Path
    rank: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """All adapters of a model: those to load by name, in the order of the names to tell, and those that are not."""

    written: Mapping[str, Written]
    refused: Mapping[str, str]
    default: str | None
    place: tempfile.TemporaryDirectory[str] | None = None
    """Where they are, for as long as this object is."""


def prepare(settings: Settings, configuration: Any) -> Prepared:
    """Reads the adapters for a model of this configuration and writes them anew."""
    place = Path(settings.adapters_dir)
    if not place.is_dir() or not any(place.glob(f"*/{CONFIG}")):
        return Prepared({}, {}, None)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            configuration, trust_remote_code=settings.trust_remote_code
        )
    found = Found(place, sizes=sizes(dict(model.named_modules())), strengths=dict(settings.adapter_strength))
    layers = dict(found.layers)
    if found.strengths:
        mixed = {name: layers[name] for name in found.strengths}
        layers[COMBINED] = weighted(mixed, weights=found.strengths)
    refused, written = dict(found.refused), {}
    into = tempfile.TemporaryDirectory(prefix="kaito-adapters-")
    for name in found.names:
        rank = max(part.down.shape[0] for part in layers[name].values())
        if rank > RANKS[-1]:
            refused[name] = f"its rank is {rank}, and vLLM has room for {RANKS[-1]}: use --engine=transformers"
        else:
            written[name] = Written(write(layers[name], rank=rank, to=Path(into.name) / name), rank)
    return Prepared(written, refused, found.default if found.default in written else None, into)


def write(layers: Layers, *, rank: int, to: Path) -> Path:
    """Writes an adapter whose layers all have this rank and the scale 1."""
    to.mkdir()
    targets = sorted({layer.rpartition(".")[2] for layer in layers})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none"}
    (to / CONFIG).write_text(json.dumps(config))
    padded = {layer: _padded(part, rank=rank) for layer, part in layers.items()}
    tensors = {f"base_model.model.{layer}.lora_A.weight": part.down for layer, part in padded.items()}
    tensors |= {f"base_model.model.{layer}.lora_B.weight": part.up for layer, part in padded.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, to / WEIGHTS)
    return to


def _padded(part: LowRank, *, rank: int) -> LowRank:
    """With rows and columns of zeros up to the rank."""
    missing = rank - part.down.shape[0]
    return LowRank(
        torch.nn.functional.pad(part.down, (0, 0, 0, missing)), torch.nn.functional.pad(part.up, (0, missing))
    )
