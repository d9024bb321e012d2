"""A checkpoint's safetensors as packed layers; q, k, v and gate, up are fused into one product each."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from inference_server.engines.adapters import Layers
from inference_server.engines.kernels import Kernels
from inference_server.engines.native.architecture import Architecture, Unsupported
from inference_server.engines.native.linear import Linear, LowRank, last, packing

Norm = Callable[[Tensor, Tensor | None], Tensor]
"""x [..., size], and what is added to it in place before → the same, normalised over the last dimension."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    input_norm: Norm
    qkv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    output: Linear
    output_norm: Norm | None
    mlp_norm: Norm
    gate_up: Linear
    down: Linear
    down_norm: Norm | None


@dataclass(frozen=True, slots=True)
class Weights:
    """The network, ready to run. ``embedding`` is [vocabulary, hidden]."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear


Part = tuple[str, int]
"""The name of a linear module in the checkpoint, and its outputs."""


@dataclass(frozen=True, slots=True)
class Modules:
    """The linear modules of a layer: each product with the parts it is fused of."""

    qkv: tuple[Part, ...]
    output: tuple[Part, ...]
    gate_up: tuple[Part, ...]
    down: tuple[Part, ...]


def modules(of: Architecture, layer: int) -> Modules:
    """As the family's checkpoints name them."""
    attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
    queries, keys = of.heads * of.head_dim, of.kv_heads * of.head_dim
    output, down = ((f"{attention}.o_proj", of.hidden),), ((f"{mlp}.down_proj", of.hidden),)
    if of.family == "phi3":
        qkv, gate_up = (f"{attention}.qkv_proj", queries + 2 * keys), (f"{mlp}.gate_up_proj", 2 * of.intermediate)
        return Modules((qkv,), output, (gate_up,), down)
    sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    return Modules(
        qkv=tuple((f"{attention}.{name}", size) for name, size in sizes.items()),
        output=output,
        gate_up=tuple((f"{mlp}.{name}", of.intermediate) for name in ("gate_proj", "up_proj")),
        down=down,
    )


def sizes(of: Architecture) -> dict[str, tuple[int, int]]:
    """Every linear module that an adapter may be for, with its inputs and outputs."""
    found = {"lm_head": (of.hidden, of.vocabulary)}
    for layer in range(of.layers):
        own = modules(of, layer)
        found |= {name: (of.hidden, outputs) for name, outputs in (*own.qkv, *own.gate_up)}
        found |= {name: (of.heads * of.head_dim, outputs) for name, outputs in own.output}
        found |= {name: (of.intermediate, outputs) for name, outputs in own.down}
    return found


def load(
    directory: Path,
    of: Architecture,
    *,
    dtype: torch.dtype,
    device: torch.device,
    adapters: Sequence[Layers] = (),
    int4: bool = False,
    kernels: Kernels | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Weights:
    """Reads ``*.safetensors`` and packs. ``progress`` gets the share of layers done, 0 to 1.

    Raises OSError if there are no safetensors, Unsupported if a tensor is missing.
    """
    pack = packing(device, twice=int4, own=kernels)
    with _tensors(directory) as (names, read):

        def linear(*parts: Part) -> Linear:
            weight = torch.cat([read(f"{name}.weight") for name, _ in parts]).to(device, dtype)
            biased = f"{parts[0][0]}.bias" in names
            bias = torch.cat([read(f"{name}.bias") for name, _ in parts]).to(device, dtype) if biased else None
            return Linear(pack(weight, bias), side_by_side(adapters, parts, device=device))

        def norm(name: str) -> Norm:
            return _norm(read(f"{name}.weight").to(device), of, dtype=dtype, kernels=kernels)

        def layer(index: int) -> Layer:
            progress(index / of.layers)
            at, own, gemma = f"model.layers.{index}", modules(of, index), of.gemma
            return Layer(
                input_norm=norm(f"{at}.input_layernorm"),
                qkv=linear(*own.qkv),
                q_norm=norm(f"{at}.self_attn.q_norm") if of.qk_norm else None,
                k_norm=norm(f"{at}.self_attn.k_norm") if of.qk_norm else None,
                output=linear(*own.output),
                output_norm=norm(f"{at}.post_attention_layernorm") if gemma else None,
                mlp_norm=norm(f"{at}.pre_feedforward_layernorm" if gemma else f"{at}.post_attention_layernorm"),
                gate_up=linear(*own.gate_up),
                down=linear(*own.down),
                down_norm=norm(f"{at}.post_feedforward_layernorm") if gemma else None,
            )

        embedding = read("model.embed_tokens.weight").to(device, dtype)
        head = embedding if of.tied else read("lm_head.weight").to(device, dtype)
        added = side_by_side(adapters, [("lm_head", of.vocabulary)], device=device)
        layers = tuple(layer(index) for index in range(of.layers))
        return Weights(embedding, layers, norm("model.norm"), head=Linear(last(head, own=kernels), added))


def side_by_side(adapters: Sequence[Layers], parts: Sequence[Part], *, device: torch.device) -> LowRank | None:
    """What all adapters add to a fused product; None if they add nothing."""
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    owners: list[int] = []
    outputs, before = sum(size for _, size in parts), 0
    for name, size in parts:
        for number, layers in enumerate(adapters):
            if name in layers:
                own = layers[name]
                downs.append(own.down)
                ups.append(functional.pad(own.up, (0, 0, before, outputs - before - size)))
                owners += [number] * own.down.shape[0]
        before += size
    if not owners:
        return None
    down, up = torch.cat(downs).T.contiguous(), torch.cat(ups, dim=1).T.contiguous()
    return LowRank(down.to(device), up.to(device), torch.tensor(owners, device=device))


def _norm(weight: Tensor, of: Architecture, *, dtype: torch.dtype, kernels: Kernels | None) -> Norm:
    """Rounded where the family's own code rounds: Gemma's after the weight, all others' before and after it."""
    size, eps, own = (weight.shape[0],), of.norm_eps, weight.to(dtype)
    gain = 1.0 + weight.float()

    def norm(x: Tensor, added: Tensor | None) -> Tensor:
        x = x if added is None else x.add_(added)
        if of.gemma:
            return functional.rms_norm(x.float(), size, gain, eps).to(dtype)
        return functional.rms_norm(x, size, None, eps).mul_(own)

    if kernels is None or of.gemma:
        return norm
    add_norm = kernels.add_norm
    return lambda x, added: add_norm(x, added, own, eps=eps)


Read = Callable[[str], Tensor]


@contextmanager
def _tensors(directory: Path) -> Iterator[tuple[Mapping[str, Path], Read]]:
    """The names of all tensors, and how to read one, from however many shards there are; nothing is read twice.

    What is read is a copy: one tensor that is not would keep its whole file in memory.
    """
    places = _places(directory)
    opened = {shard: safe_open(shard, framework="pt") for shard in set(places.values())}

    def read(name: str) -> Tensor:
        if name not in places:
            raise Unsupported(f"the checkpoint has no tensor {name}")
        tensor: Tensor = opened[places[name]].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor.clone()

    yield places, read


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
