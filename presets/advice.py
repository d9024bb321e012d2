"""Which machines would serve or tune a model, what each has left, how fast it could be and what it costs.

Pure: prices are given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from presets.architecture import kv_elements
from presets.cards import OLDEST, Capability
from presets.catalog import Catalog, InstanceType, Model
from presets.estimate import (
    CPU_OVERHEAD,
    DTYPE_BYTES,
    GIB,
    GPU_OVERHEAD,
    ONE_GPU,
    Load,
    Memory,
    Needs,
    Split,
    layered,
    limit,
    longest_context,
    most_concurrent,
    serving,
    serving_on_cpu,
)
from presets.estimate_tuning import Tuning, TuningMemory, lowered, tuning
from presets.fit import SHARE_FOR_PODS, problems, too_old
from presets.prices.price import Price

SUGGESTIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOffer:
    """A model served on one machine of this size. Memory in bytes on the fullest GPU, or of the process without one."""

    size: InstanceType
    machines: int
    memory: Memory
    room: int
    tokens_per_second: float | None
    """At most, of one conversation; None where the machine's memory bandwidth is not known."""
    problem: str
    """Why not; "" if it fits."""
    price: Price | None
    """Of all machines; None is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """What else would fit on one machine."""

    longest_context: int
    """With the concurrency asked for."""
    most_concurrent: int
    """With the context asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOffer:
    """A model tuned on one machine of this size."""

    size: InstanceType
    memory: TuningMemory
    room: int
    lower: str
    """What to change if it does not fit; "" where nothing does, or nothing has to."""
    problem: str
    price: Price | None


Prices = Mapping[str, Price]
"""By instance type in lower case."""
Offer = TypeVar("Offer", ServingOffer, TuningOffer)


def serve_on(
    model: Model,
    size: InstanceType,
    load: Load,
    *,
    machines: int,
    catalog: Catalog,
    prices: Prices,
    oldest: Capability = OLDEST,
    spread: bool = False,
) -> ServingOffer:
    """What serving this load on this size comes to.

    ``oldest``: the cards that the torch which would run has code for. ``spread``: one copy is over all machines, as in
    KAITO's images of large models; else each has a whole one.
    """
    over = machines if spread else 1
    room, split = _room(size, catalog), _split(model, size, over)
    memory = _needs_on(model, size, over)(load)
    return ServingOffer(
        size=size,
        machines=machines,
        memory=memory,
        room=room,
        tokens_per_second=_at_most(model, size, load, catalog=catalog),
        problem=_refused(model, size, over, catalog)
        or too_old(size, catalog=catalog, oldest=oldest)
        or _too_long(model, load)
        or _overflow(memory, room, split),
        price=_price(size, machines, prices),
    )


def spare(model: Model, size: InstanceType, load: Load, *, catalog: Catalog, over: int = 1) -> Spare:
    """How far context and concurrency could go, each with the other as asked for, of a copy over so many machines."""
    room, needs = _room(size, catalog), _needs_on(model, size, over)
    longest = longest_context(needs, room, most=model.architecture.context, concurrency=load.concurrency)
    most = most_concurrent(needs, room, context=load.context)
    return Spare(longest_context=longest, most_concurrent=most)


def tune_on(
    model: Model,
    size: InstanceType,
    asked: Tuning,
    *,
    catalog: Catalog,
    prices: Prices,
    oldest: Capability = OLDEST,
) -> TuningOffer:
    """What such a tuning on this size comes to. ``oldest``: the cards that the torch which would run has code for."""
    room = _room(size, catalog)
    memory = tuning(model.weights, asked, overhead=GPU_OVERHEAD if size.gpus else CPU_OVERHEAD)
    over = memory.total > room
    cannot = "" if model.tuning else f"{model.name} cannot be tuned"
    refused = cannot or _refused_without_need(model, size, catalog) or too_old(size, catalog=catalog, oldest=oldest)
    return TuningOffer(
        size=size,
        memory=memory,
        room=room,
        lower=lowered(model.weights, asked, room) if over and not refused else "",
        problem=refused or (_needs(memory.total, room) if over else ""),
        price=_price(size, 1, prices),
    )


def offers(model: Model, load: Load, *, catalog: Catalog, prices: Prices, cloud: str) -> tuple[ServingOffer, ...]:
    """All sizes of a cloud still sold that serve this load."""
    made = (serve_on(model, size, load, machines=1, catalog=catalog, prices=prices) for size in _sold(catalog, cloud))
    return tuple(offer for offer in made if not offer.problem)


def tuning_offers(
    model: Model, asked: Tuning, *, catalog: Catalog, prices: Prices, cloud: str
) -> tuple[TuningOffer, ...]:
    """All sizes of a cloud still sold on which such a tuning fits."""
    made = (tune_on(model, size, asked, catalog=catalog, prices=prices) for size in _sold(catalog, cloud))
    return tuple(offer for offer in made if not offer.problem)


def cheapest(among: Iterable[Offer]) -> list[Offer]:
    """The three of the lowest known price; where no price is known, the three smallest."""

    def rank(offer: Offer) -> tuple[float, int, int, str]:
        price = offer.price.hourly if offer.price else float("inf")
        return price, offer.size.gpu_memory_gib, offer.size.memory_gib, offer.size.name

    return sorted(among, key=rank)[:SUGGESTIONS]


def fastest(among: Iterable[ServingOffer]) -> list[ServingOffer]:
    """The three with the highest bound on speed, the cheaper first of equals."""

    def rank(offer: ServingOffer) -> tuple[float, float, str]:
        return -(offer.tokens_per_second or 0), offer.price.hourly if offer.price else float("inf"), offer.size.name

    return sorted((offer for offer in among if offer.tokens_per_second), key=rank)[:SUGGESTIONS]


def _sold(catalog: Catalog, cloud: str) -> Iterable[InstanceType]:
    return (size for size in catalog.instance_types.values() if size.cloud == cloud and not size.retired)


def _room(size: InstanceType, catalog: Catalog) -> int:
    return catalog.gpu_bytes(size) if size.gpus else int(size.memory_gib * SHARE_FOR_PODS * GIB)


def _split(model: Model, size: InstanceType, machines: int) -> Split:
    return layered(model.architecture, size.gpus * machines) if size.gpus else ONE_GPU


def _needs_on(model: Model, size: InstanceType, machines: int) -> Needs:
    if not size.gpus:
        return partial(serving_on_cpu, model.weights)
    return partial(serving, model.weights, split=_split(model, size, machines))


def _at_most(model: Model, size: InstanceType, load: Load, *, catalog: Catalog) -> float | None:
    """Each token reads the active weights and its conversation's KV cache once, a GPU's layers after the other's, so
    that the bandwidth of one GPU counts (the roofline of arXiv:2402.16363, section 2)."""
    card = catalog.gpu(size)
    if card is None:
        return None
    plain = DTYPE_BYTES[model.dtype]
    each = model.file_bytes / model.parameters
    read = model.active_parameters * each + kv_elements(model.architecture, load.context) * plain
    return card.bandwidth_gb_s * 1e9 / read


def _refused(model: Model, size: InstanceType, machines: int, catalog: Catalog) -> str:
    """What the operator would say: nothing may be called fitting that it then refuses."""
    return "; ".join(problems(model, size, machines, catalog=catalog))


def _refused_without_need(model: Model, size: InstanceType, catalog: Catalog) -> str:
    card = catalog.gpu(size)
    if card is not None and card.maker != "nvidia":
        return f"{size.name} has {card.name} GPUs, the preset images are built for those of NVIDIA"
    if not size.gpus and not model.cpu:
        return f"{model.name} needs 1 GPU, {size.name} has none"
    return ""


def _too_long(model: Model, load: Load) -> str:
    most = model.architecture.context
    return "" if load.context <= most else f"{model.name} has a context of {most} tokens at most"


def _overflow(memory: Memory, room: int, split: Split) -> str:
    if memory.total <= room:
        return ""
    each = f" on each of {split.gpus} GPUs" if split.gpus > 1 else ""
    return f"{_needs(memory.total, room)}{each}, most of it for the {limit(memory)}"


def _needs(wanted: int, room: int) -> str:
    return f"it needs {wanted / GIB:.1f} GiB and finds {room / GIB:.1f} GiB"


def _price(size: InstanceType, machines: int, prices: Prices) -> Price | None:
    price = prices.get(size.name.lower())
    return price.times(machines) if price else None
