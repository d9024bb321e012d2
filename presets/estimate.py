"""How much memory a served model takes on each GPU, and what of context and concurrency fits.

Pure, all sizes in bytes. ``docs/reference/estimates.md`` compares it with KAITO's estimator and with what was measured.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from presets.architecture import (
    Architecture,
    embedding_parameters,
    expert_parameters,
    kv_elements,
    linear_parameters,
    parameters,
)

GIB = 1 << 30
Quantisation = Literal["", "int8", "nf4", "fp8", "mxfp4"]
Dtype = Literal["bfloat16", "float16", "float32"]
DTYPE_BYTES: dict[Dtype, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
PACKED_BYTES: dict[Quantisation, float] = {
    "int8": 1 + 1 / 1024,
    "nf4": 0.5 + 1 / 64 + 4 / (64 * 256),
    "fp8": 1 + 4 / (128 * 128),
    "mxfp4": 0.5 + 1 / 32,
}
"""Bytes of one packed weight with its share of the scales: LLM.int8 (arXiv:2208.07339) has one for each row; NF4 with
double quantisation (arXiv:2305.14314, section 3) an 8-bit one for 64 weights and a float32 one for 256 of those;
DeepSeek's float8 (arXiv:2412.19437, section 3.3) a float32 one for a block of 128 × 128; MXFP4 (OCP microscaling
formats 1.0) 8 bits for 32."""
WEIGHTS_ROUNDING = 1.02
"""The caching allocator rounds tensors up; KAITO's estimator has the same 2 %."""
FRAGMENTATION = 1.05
"""What the allocator holds of memory that comes and goes beyond what is in use; KAITO's estimator has the same 5 %."""
GPU_OVERHEAD = int(0.75 * GIB)
"""CUDA context, kernels and library workspaces of one process on one GPU: 0.4 to 0.7 GiB by card and version."""
CPU_OVERHEAD = int(0.82 * GIB)
"""A process with torch and transformers loaded, without a model, as measured: a third of it are mapped libraries."""
FOUR_BITS = 0.5 + 4 / 32
"""Bytes of one weight that a processor has in 4 bits: 32 of them share a scale and a middle, both bfloat16."""
SHORTEST_CONTEXT = 2048
"""Tokens. A model that cannot hold so many is of no use; KAITO's estimator asks for the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model as it is loaded."""

    architecture: Architecture
    dtype: Dtype = "bfloat16"
    quantisation: Quantisation = ""
    file_bytes: int = 0
    """Of its files, where they are known: they tell more than the formula."""
    twice: bool = False
    """Whether a processor has its matrices in 4 bits as well (``int4_small_batches``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of it: so many conversations at once, each so many tokens long."""

    context: int
    concurrency: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Over how many GPUs each layer is cut (tensor parallel), and into how many runs the layers are (pipeline)."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline


ONE_GPU = Split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one GPU holds; of several the one that holds most."""

    weights: int
    kv_cache: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.kv_cache + self.activations + self.overhead


Needs = Callable[[Load], Memory]
"""What a load takes: ``serving`` or ``serving_on_cpu`` of one model."""


def weight_bytes(of: Weights) -> int:
    """What the weights take, all of them. Embeddings are never packed; MXFP4 packs the experts alone."""
    architecture, plain = of.architecture, DTYPE_BYTES[of.dtype]
    if of.file_bytes:
        return of.file_bytes
    if not of.quantisation:
        return parameters(architecture) * plain
    linear = linear_parameters(architecture)
    packed = linear
    if of.quantisation == "mxfp4" and architecture.experts:
        packed = (architecture.layers - architecture.experts.dense_layers) * expert_parameters(architecture)
    rest = linear - packed + embedding_parameters(architecture) + architecture.other_parameters
    return int(packed * PACKED_BYTES[of.quantisation]) + rest * plain


def serving(of: Weights, load: Load, *, split: Split = ONE_GPU) -> Memory:
    """The memory of one GPU that serves this load. The KV cache is not quantised: it has the model's own dtype."""
    share = _share(of.architecture, split)
    each = kv_elements(of.architecture, load.context) * DTYPE_BYTES[of.dtype]
    return Memory(
        weights=int(_weights_of_one(of, split) * WEIGHTS_ROUNDING),
        kv_cache=int(each * load.concurrency * share * _kv_share(of.architecture, split) * FRAGMENTATION),
        activations=int(_activations(of, load) / split.tensor * FRAGMENTATION),
        overhead=GPU_OVERHEAD,
    )


def layered(of: Architecture, gpus: int) -> Split:
    """How the preset images spread a model: run by run of layers, as accelerate's device map does."""
    return Split(pipeline=min(gpus, of.layers))


def longest_context(needs: Needs, room: int, *, most: int, concurrency: int = 1) -> int:
    """The most tokens, up to ``most``, with which ``room`` bytes do; 0 if not even one."""
    return _largest(lambda context: needs(Load(context=context, concurrency=concurrency)).total <= room, most=most)


def most_concurrent(needs: Needs, room: int, *, context: int) -> int:
    """With how many conversations of so many tokens ``room`` bytes do; 0 if not even one."""
    return _largest(lambda number: needs(Load(context=context, concurrency=number)).total <= room, most=1 << 16)


def gpus_needed(of: Weights, load: Load, room: int) -> int:
    """How many GPUs with ``room`` bytes each hold the model, layers on one after another; 0 if no number does."""
    for gpus in range(1, of.architecture.layers + 1):
        if serving(of, load, split=layered(of.architecture, gpus)).total <= room:
            return gpus
    return 0


def limit(memory: Memory) -> str:
    """The largest part, in words: what to make smaller when it does not fit."""
    parts = {"weights": memory.weights, "KV cache": memory.kv_cache, "activations": memory.activations}
    return max(parts, key=lambda name: parts[name])


def serving_on_cpu(of: Weights, load: Load) -> Memory:
    """The memory of the process that serves it without a GPU: the native engine packs the weights in place of those it
    has read, and takes memory for its KV cache, which has the model's own dtype, as tokens come."""
    each = kv_elements(of.architecture, load.context) * DTYPE_BYTES[of.dtype]
    beside = linear_parameters(of.architecture) * FOUR_BITS if of.twice else 0
    return Memory(
        weights=int((weight_bytes(of) + beside) * WEIGHTS_ROUNDING),
        kv_cache=each * load.concurrency,
        activations=int(_activations(of, load) * FRAGMENTATION),
        overhead=CPU_OVERHEAD,
    )


def _share(of: Architecture, split: Split) -> float:
    """The part of the layers that the fullest GPU of a pipeline has."""
    return ceil(of.layers / split.pipeline) / of.layers


def _kv_share(of: Architecture, split: Split) -> float:
    """The part of a layer's KV cache one GPU has: a KV head is never cut, and a latent vector is on all of them."""
    return 1.0 if of.latent else 1 / min(split.tensor, of.kv_heads)


def _weights_of_one(of: Weights, split: Split) -> float:
    """The fullest GPU of a pipeline has its layers and, at the ends, an embedding; tensor parallel cuts all alike."""
    architecture, plain = of.architecture, DTYPE_BYTES[of.dtype]
    ends = (embedding_parameters(architecture) + architecture.other_parameters) * plain
    layers = max(0, weight_bytes(of) - ends)
    if split.pipeline > 1:
        ends = (architecture.hidden * architecture.vocabulary + architecture.other_parameters) * plain
    return (layers * _share(architecture, split) + ends) / split.tensor


def _activations(of: Weights, load: Load) -> int:
    """What one layer has in hand while a whole prompt goes through it, and the logits of the last position.

    The residual, its norm and one more of the same size, the norm in float32 as well, and the larger of attention's
    projections and the MLP's; no matrix of tokens × tokens, for scaled_dot_product_attention makes none.
    """
    a, size = of.architecture, DTYPE_BYTES[of.dtype]
    attention = (2 * a.heads + 2 * a.kv_heads) * a.head_size
    mlp = (3 if a.gated else 2) * _active_intermediate(a)
    prompt = load.context * (a.hidden * (3 * size + 4) + max(attention, mlp) * size)
    return prompt + load.concurrency * a.vocabulary * (size + 4)


def _active_intermediate(of: Architecture) -> int:
    if not of.experts:
        return of.intermediate
    return of.experts.per_token * of.experts.intermediate + of.experts.shared_intermediate


def _largest(fits: Callable[[int], bool], *, most: int) -> int:
    """The largest number up to ``most`` that fits; what fits is every number below it too."""
    if not fits(1):
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def quantised(of: Weights, to: Quantisation) -> Weights:
    """The same model, packed as it is loaded."""
    return replace(of, quantisation=to, file_bytes=0)
