"""A checkpoint's safetensors as packed layers; q, k, v and gate, up are fused into one product each."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from inference_server.engines.native.architecture import Architecture, Unsupported
from inference_server.engines.native.linear import Linear, packing


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Norms are [hidden] (or [head_dim]) in the working dtype."""

    input_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Weights:
    """The network, ready to run. ``embedding`` is [vocabulary, hidden] in the checkpoint's dtype."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear


def load(
    directory: Path,
    architecture: Architecture,
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[float], None] = lambda _: None,
) -> Weights:
    """Reads ``*.safetensors`` and packs. ``progress`` gets the share of layers done, 0 to 1.

    Raises OSError if there are no safetensors, Unsupported if a tensor is missing.
    """
    pack = packing(dtype, device)
    working = torch.float32 if device.type == "cpu" else dtype
    with _tensors(directory) as read:

        def vector(name: str) -> Tensor:
            return read(name).to(device, working)

        def linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
            return pack(weight.to(device, dtype), None if bias is None else bias.to(device, dtype))

        def layer(index: int) -> Layer:
            at = f"model.layers.{index}."
            progress(index / architecture.layers)
            return Layer(
                input_norm=vector(f"{at}input_layernorm.weight"),
                qkv=linear(*_qkv(at, architecture, read)),
                q_norm=vector(f"{at}self_attn.q_norm.weight") if architecture.qk_norm else None,
                k_norm=vector(f"{at}self_attn.k_norm.weight") if architecture.qk_norm else None,
                output=linear(read(f"{at}self_attn.o_proj.weight")),
                post_norm=vector(f"{at}post_attention_layernorm.weight"),
                gate_up=linear(_gate_up(at, architecture, read)),
                down=linear(read(f"{at}mlp.down_proj.weight")),
            )

        embedding = read("model.embed_tokens.weight").to(device, dtype)
        return Weights(
            embedding=embedding,
            layers=tuple(layer(index) for index in range(architecture.layers)),
            norm=vector("model.norm.weight"),
            head=linear(embedding if architecture.tied else read("lm_head.weight")),
        )


Read = Callable[[str], Tensor]


def _qkv(at: str, architecture: Architecture, read: Read) -> tuple[Tensor, Tensor | None]:
    """Weight [(heads + 2·kv_heads)·head_dim, hidden] and, for Qwen 2, the bias."""
    if architecture.family == "phi3":
        return read(f"{at}self_attn.qkv_proj.weight"), None
    names = [f"{at}self_attn.{part}_proj" for part in "qkv"]
    weight = torch.cat([read(f"{name}.weight") for name in names])
    return weight, torch.cat([read(f"{name}.bias") for name in names]) if architecture.family == "qwen2" else None


def _gate_up(at: str, architecture: Architecture, read: Read) -> Tensor:
    if architecture.family == "phi3":
        return read(f"{at}mlp.gate_up_proj.weight")
    return torch.cat([read(f"{at}mlp.gate_proj.weight"), read(f"{at}mlp.up_proj.weight")])


@contextmanager
def _tensors(directory: Path) -> Iterator[Read]:
    """Reads tensors by name from however many shards there are; nothing is read twice."""
    places = _places(directory)
    opened = {shard: safe_open(shard, framework="pt") for shard in set(places.values())}

    def read(name: str) -> Tensor:
        if name not in places:
            raise Unsupported(f"the checkpoint has no tensor {name}")
        tensor: Tensor = opened[places[name]].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    yield read


def _places(directory: Path) -> Mapping[str, Path]:
    """Tensor name → shard."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        return {name: directory / shard for name, shard in json.loads(index.read_text())["weight_map"].items()}
    single = directory / "model.safetensors"
    if not single.exists():
        raise OSError(f"no safetensors in {directory}; other formats can hold code and are not loaded")
    with safe_open(single, framework="pt") as shard:
        return {name: single for name in shard.keys()}  # noqa: SIM118  (a safe_open is no mapping)
