"""How much memory a LoRA or QLoRA tuning takes on its GPU, and what to lower when that is too much.

Pure. All sizes in bytes. Each GPU of several holds all of it (data parallel).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from presets.architecture import Architecture
from presets.estimate import (
    DTYPE_BYTES,
    FRAGMENTATION,
    GPU_OVERHEAD,
    WEIGHTS_ROUNDING,
    Weights,
    quantised,
    weight_bytes,
)
from presets.target_modules import FAMILIES

Method = Literal["lora", "qlora"]
Optimizer = Literal["adamw", "adamw_8bit", "sgd"]
STATE_BYTES: dict[Optimizer, int] = {"adamw": 8, "adamw_8bit": 2, "sgd": 0}
"""Of the optimizer for each trained parameter: two moments, float32 (arXiv:1412.6980) or 8 bits (arXiv:2110.02861)."""
ADAPTER_BYTES = 4
"""peft keeps adapters in float32 (``autocast_adapter_dtype``), and so are their gradients."""
SHORTEST_SEQUENCE = 256


class UnknownTarget(Exception):
    """A target module that no known family has."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no target module {name!r}; these are known: {', '.join(sorted(_shapes()))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A tuning as it is asked for."""

    method: Method
    rank: int = 8
    targets: tuple[str, ...] = FAMILIES["llama"]
    batch: int = 1
    sequence: int = 2048
    checkpointing: bool = False
    optimizer: Optimizer = "adamw"


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningMemory:
    """What one GPU holds at the worst moment, which is when the loss is known and nothing has been given back."""

    weights: int
    adapter: int
    """The adapter, its gradients and the optimizer's state."""
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.adapter + self.activations + self.logits + self.overhead


def tuning(of: Weights, asked: Tuning, *, overhead: int = GPU_OVERHEAD) -> TuningMemory:
    """The memory of one GPU. Raises UnknownTarget."""
    base = quantised(of, "nf4") if asked.method == "qlora" else of
    trained = adapter_parameters(of.architecture, rank=asked.rank, targets=asked.targets)
    return TuningMemory(
        weights=int(weight_bytes(base) * WEIGHTS_ROUNDING) + _unpacked(of, asked),
        adapter=trained * (2 * ADAPTER_BYTES + STATE_BYTES[asked.optimizer]),
        activations=int(_activations(of, asked) * FRAGMENTATION),
        logits=_logits(of, asked),
        overhead=overhead,
    )


def adapter_parameters(of: Architecture, *, rank: int, targets: tuple[str, ...]) -> int:
    """Two matrices of that rank beside each target of a layer (arXiv:2106.09685, section 4.1). Raises UnknownTarget."""
    return of.layers * rank * sum(sum(_shape(of, target)) for target in targets)


def lowered(of: Weights, asked: Tuning, room: int) -> str:
    """What to change so that it fits into ``room`` bytes, the least first; "" if nothing does."""
    changed: list[str] = []
    for words, change in _changes(asked):
        changed.append(words)
        asked = change
        if tuning(of, asked).total <= room:
            return " and ".join(changed)
    return ""


def _changes(asked: Tuning) -> Iterator[tuple[str, Tuning]]:
    """Each adds to those before: first what costs time alone, then what costs rows at once, then what costs text."""
    if not asked.checkpointing:
        asked = replace(asked, checkpointing=True)
        yield "switch gradient checkpointing on", asked
    if asked.batch > 1:
        asked = replace(asked, batch=1)
        yield "lower the batch size to 1", asked
    if asked.method == "lora":
        asked = replace(asked, method="qlora")
        yield "use qlora", asked
    if asked.optimizer == "adamw":
        asked = replace(asked, optimizer="adamw_8bit")
        yield "use an 8-bit optimizer", asked
    while asked.sequence > SHORTEST_SEQUENCE:
        asked = replace(asked, sequence=max(SHORTEST_SEQUENCE, asked.sequence // 2))
        yield f"lower the sequence length to {asked.sequence}", asked


def _activations(of: Weights, asked: Tuning) -> int:
    """With checkpointing the input of each layer and all of one layer; without it all of every layer
    (arXiv:2205.05198, section 4.1, for layers as they are here)."""
    tokens, layers = asked.batch * asked.sequence, of.architecture.layers
    layer = tokens * _layer_bytes(of)
    if not asked.checkpointing:
        return layers * layer
    return layers * tokens * of.architecture.hidden * DTYPE_BYTES[of.dtype] + layer


def _layer_bytes(of: Weights) -> int:
    """What one layer keeps of each token for its backward pass: both norms in float32 with their inputs, the inputs of
    the projections, queries, keys, values and their attention, and the MLP's inner values before and after the gate."""
    a, size = of.architecture, DTYPE_BYTES[of.dtype]
    norms = 2 * a.hidden * (4 + size)
    attention = (a.hidden + 3 * a.heads * a.head_size + 2 * a.kv_heads * a.head_size) * size
    inner = (
        a.experts.per_token * a.experts.intermediate + a.experts.shared_intermediate if a.experts else a.intermediate
    )
    return norms + attention + (a.hidden + (4 if a.gated else 2) * inner) * size


def _logits(of: Weights, asked: Tuning) -> int:
    """Logits, the same in float32 for the loss, and their gradient."""
    return asked.batch * asked.sequence * of.architecture.vocabulary * (2 * DTYPE_BYTES[of.dtype] + 4)


def _unpacked(of: Weights, asked: Tuning) -> int:
    """QLoRA unpacks one matrix at a time for its product: room for the largest."""
    if asked.method == "lora":
        return 0
    a = of.architecture
    return max(a.hidden * a.intermediate, a.hidden * a.heads * a.head_size) * DTYPE_BYTES[of.dtype]


def _shape(of: Architecture, target: str) -> tuple[int, int]:
    try:
        shape = _shapes()[target]
    except KeyError:
        raise UnknownTarget(target) from None
    sizes = {
        "hidden": of.hidden,
        "queries": of.heads * of.head_size,
        "keys": of.kv_heads * of.head_size,
        "all": (of.heads + 2 * of.kv_heads) * of.head_size,
        "inner": of.intermediate,
        "both": 2 * of.intermediate,
    }
    return sizes[shape[0]], sizes[shape[1]]


def _shapes() -> dict[str, tuple[str, str]]:
    """Input and output of the linear modules by their names in transformers."""
    return {
        "q_proj": ("hidden", "queries"),
        "k_proj": ("hidden", "keys"),
        "v_proj": ("hidden", "keys"),
        "o_proj": ("queries", "hidden"),
        "qkv_proj": ("hidden", "all"),
        "query_key_value": ("hidden", "all"),
        "dense": ("queries", "hidden"),
        "gate_proj": ("hidden", "inner"),
        "up_proj": ("hidden", "inner"),
        "down_proj": ("inner", "hidden"),
        "gate_up_proj": ("hidden", "both"),
        "fc1": ("hidden", "inner"),
        "fc2": ("inner", "hidden"),
        "dense_h_to_4h": ("hidden", "inner"),
        "dense_4h_to_h": ("inner", "hidden"),
    }
