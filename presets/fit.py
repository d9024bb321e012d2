"""Whether a model fits on machines of one size, and which sizes it fits on."""

from dataclasses import dataclass

from presets.cards import OLDEST, Capability, capability, outdated, words
from presets.catalog import Catalog, InstanceType, Model
from presets.estimate import GIB, SHORTEST_CONTEXT, Load, layered, serving

SHARE_FOR_PODS = 0.75
"""AKS keeps back at most a quarter of a machine's memory for itself (its kube-reserved table: 25 % of the first 4 GiB,
less of what is above, and 0.75 GiB for eviction on older versions)."""
SUGGESTIONS = 3
MOST_MACHINES = 16
"""Over more of them no model of the catalogue is spread."""


@dataclass(frozen=True, slots=True)
class Fit:
    """It fits; each machine gives its ``gpus_per_node``, 0 where the model runs on the processors."""

    gpus_per_node: int


@dataclass(frozen=True, slots=True)
class Misfit:
    """It does not fit: everything that stands against it, and the smallest sizes on which it would."""

    problems: tuple[str, ...]
    sizes: tuple[str, ...]
    count: int = 0
    """How many machines of this size would do; 0 where no number does, or where one is enough."""


def fits(model: Model, instance_type: InstanceType, count: int, *, catalog: Catalog) -> Fit | Misfit:
    """Whether ``count`` machines of this size serve the model. Every replica of a model that cannot spread over
    machines must fit on one of them."""
    if against := problems(model, instance_type, count, catalog=catalog):
        sizes = smallest(model, count, catalog=catalog, cloud=instance_type.cloud)
        return Misfit(problems=against, sizes=sizes, count=_more(model, instance_type, count, catalog=catalog))
    return Fit(gpus_per_node=instance_type.gpus)


def _more(model: Model, size: InstanceType, count: int, *, catalog: Catalog) -> int:
    """The number of machines over which a model that spreads would fit."""
    enough = (n for n in range(count + 1, MOST_MACHINES + 1) if not problems(model, size, n, catalog=catalog))
    return next(enough, 0) if model.distributed else 0


def smallest(
    model: Model, count: int, *, catalog: Catalog, cloud: str = "azure", oldest: Capability = OLDEST, at_least: int = 0
) -> tuple[str, ...]:
    """The smallest sizes of a cloud still sold that serve the model on ``count`` machines, smallest first.

    ``at_least``: GiB of GPU memory that they are to have.
    """
    able = fitting(model, count, catalog=catalog, cloud=cloud, oldest=oldest)
    serving_sizes = [size for size in able if size.gpu_memory_gib >= at_least]
    serving_sizes.sort(key=_size)
    return tuple(size.name for size in serving_sizes[:SUGGESTIONS])


def fitting(
    model: Model, count: int, *, catalog: Catalog, cloud: str = "azure", oldest: Capability = OLDEST
) -> tuple[InstanceType, ...]:
    """All sizes of a cloud still sold that serve the model on ``count`` machines. Sizes whose cards are too old for our
    runtime are none of them, whatever would run: what is suggested does for every image."""
    return tuple(
        size
        for size in catalog.instance_types.values()
        if size.cloud == cloud
        and not size.retired
        and not too_old(size, catalog=catalog, oldest=oldest)
        and not problems(model, size, count, catalog=catalog)
    )


def too_old(size: InstanceType, *, catalog: Catalog, oldest: Capability = OLDEST) -> str:
    """Why our runtime cannot run on the cards of a machine; "" if it can, or there is none.

    ``oldest``: what torch of the runtime image has code for. KAITO's images, and those of users, have a torch of their
    own: this is for whoever knows which runs.
    """
    card = catalog.gpu(size)
    its = capability(card.compute_capability) if card is not None else None
    if card is None or its is None or not outdated(its, oldest=oldest):
        return ""
    return (
        f"the {card.name} cards of {size.name} are of compute capability {words(its)}, and the runtime is built for"
        f" {words(oldest)} and newer"
    )


def split_by_kaito(model: Model, *, machines: int, gpus: int) -> str:
    """Why one copy of a model in KAITO's image cannot be on so many machines; "" if it can.

    ``gpus``: of each; 0 if that is not known.
    """
    each, left = divmod(model.gpus, machines)
    if left or not each:
        return f"KAITO's {model.name} has {model.gpus} parts, one for each GPU: resource.count must divide that"
    if gpus and gpus < each:
        return f"KAITO's {model.name} has {each} parts on each of {machines} machines, and a machine has {gpus} GPUs"
    return ""


def newer(size: InstanceType, *, catalog: Catalog, oldest: Capability = OLDEST) -> tuple[str, ...]:
    """The smallest sizes of the same cloud still sold that have as much GPU memory on cards that are new enough."""
    able = [
        each
        for each in catalog.instance_types.values()
        if each.cloud == size.cloud and not each.retired and each.gpu_memory_gib >= size.gpu_memory_gib
        if (card := catalog.gpu(each)) is not None
        and card.maker == "nvidia"
        and not too_old(each, catalog=catalog, oldest=oldest)
    ]
    return tuple(each.name for each in sorted(able, key=_size)[:SUGGESTIONS])


def _size(size: InstanceType) -> tuple[int, int, int, int, str]:
    """From the smallest to the largest."""
    return size.gpu_memory_gib, size.gpus, size.memory_gib, size.cpus, size.name


def problems(model: Model, size: InstanceType, count: int, *, catalog: Catalog) -> tuple[str, ...]:
    """What stands against it, in words; nothing if it fits."""
    if not size.gpus:
        return _without_gpus(model, size)
    card = catalog.gpu(size)
    if card is not None and card.maker != "nvidia":
        return (f"{size.name} has {card.name} GPUs, the preset images are built for those of NVIDIA",)
    if model.states_need:
        return _against_the_stated_need(model, size, count)
    return _against_the_estimate(model, size, room=catalog.gpu_bytes(size))


def _against_the_stated_need(model: Model, size: InstanceType, count: int) -> tuple[str, ...]:
    """KAITO's own figures for its presets: what runs there is to run here."""
    machines = count if model.distributed else 1
    gpus, memory, per_gpu = machines * size.gpus, machines * size.gpu_memory_gib, size.gpu_memory_gib // size.gpus
    has = f"{machines} × {size.name} has" if machines > 1 else f"{size.name} has"
    needs = {
        f"{_gpus(model.gpus)}, {has} {gpus}": gpus < model.gpus,
        f"{model.per_gpu_memory_gib} GiB on each GPU, {size.name} has {per_gpu} GiB": per_gpu
        < model.per_gpu_memory_gib,
        f"{model.total_memory_gib} GiB of GPU memory, {has} {memory} GiB": memory < model.total_memory_gib,
    }
    return tuple(f"{model.name} needs {need}" for need, unmet in needs.items() if unmet)


def _against_the_estimate(model: Model, size: InstanceType, *, room: int) -> tuple[str, ...]:
    """The shortest context that is of use has to fit, layers spread over the GPUs of one machine."""
    shortest = Load(context=min(SHORTEST_CONTEXT, model.architecture.context))
    needed = serving(model.weights, shortest, split=layered(model.architecture, size.gpus)).total
    if needed <= room:
        return ()
    each = f" on each of {_gpus(size.gpus)}" if size.gpus > 1 else " of GPU memory"
    return (f"{model.name} needs {needed / GIB:.1f} GiB{each}, {size.name} gives {room / GIB:.1f} GiB",)


def _without_gpus(model: Model, size: InstanceType) -> tuple[str, ...]:
    if not model.cpu:
        return (f"{model.name} needs {_gpus(model.gpus)}, {size.name} has none",)
    usable = size.memory_gib * SHARE_FOR_PODS
    if usable < model.total_memory_gib:
        return (
            f"{model.name} needs {model.total_memory_gib} GiB of memory, {size.name} gives pods about {usable:g} GiB",
        )
    return ()


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"
