"""Whether the machines that a Workspace asks for do for its preset: known, large enough, and with cards that what runs
has code for. Nothing is bought that is known not to do."""

from collections.abc import Iterator
from dataclasses import dataclass

from kaito_operator.api.problems import Problem
from kaito_operator.api.reasons import Reason
from kaito_operator.api.runtime import Runtime, by_this_installation
from kaito_operator.api.sources import Source
from kaito_operator.api.spec import DEFAULT_INSTANCE_TYPE, Preset, Resource
from presets.catalog import Catalog, InstanceType, Model
from presets.fit import Misfit, fits, smallest, split_by_kaito, too_old

AT = "resource.instanceType"


@dataclass(frozen=True, slots=True)
class Asked:
    """A preset on machines. ``runtime``: None where nobody knows the installation, which then is not judged by."""

    preset: Preset
    resource: Resource
    tuned: bool
    source: str
    """Where its files are to come from, as the annotation says; "" if it does not."""
    runtime: Runtime | None


def problems(asked: Asked, model: Model | None, *, catalog: Catalog) -> Iterator[Problem]:
    """What stands against them. Of a ``model`` that is not known the size alone is judged."""
    wanted = asked.resource.instance_type
    if not wanted:
        yield from _parts(asked, model, gpus=0)
        return
    size = catalog.instance_type(wanted)
    if size is None:
        nearest = catalog.like(wanted)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`kaito models NAME` lists the sizes that fit"
        yield Problem(AT, f"there is no instance type {wanted!r}; {hint}", Reason.UNKNOWN_INSTANCE_TYPE)
        return
    if model is None:
        return
    told = _too_old(asked, model, size, catalog=catalog) or _too_small(asked, model, size, catalog=catalog)
    if told:
        yield Problem(AT, told, Reason.DOES_NOT_FIT)
    elif told := _not_alone(asked, model, size, catalog=catalog):
        yield Problem(AT, told, Reason.NOT_YET_SUPPORTED)
    else:
        yield from _parts(asked, model, gpus=size.gpus)


def _source(asked: Asked, model: Model) -> Source | None:
    """Where the files come from; None where that is not known, or mistaken itself."""
    if asked.runtime is None or asked.source not in ("", *Source):
        return None
    return asked.runtime.source(model, asked=asked.source, own=_own(asked))


def _own(asked: Asked) -> bool:
    return bool(asked.preset.preset_options and asked.preset.preset_options.image)


def _too_old(asked: Asked, model: Model, size: InstanceType, *, catalog: Catalog) -> str:
    """Cards that the installation's torch has no code for, and what to write: for a training no less memory than was
    asked for. KAITO's images, and the user's own, are not judged."""
    source = _source(asked, model)
    if asked.runtime is None or source is None or not by_this_installation(source, own=_own(asked)):
        return ""
    told = too_old(size, catalog=catalog, oldest=asked.runtime.oldest)
    if not told:
        return ""
    at_least = size.gpu_memory_gib if asked.tuned else 0
    sizes = smallest(model, 1, catalog=catalog, cloud=size.cloud, oldest=asked.runtime.oldest, at_least=at_least)
    default = " (which is taken where none is written)" if size.name == DEFAULT_INSTANCE_TYPE else ""
    newer = f"write another, such as {catalog.with_prices(sizes)}" if sizes else "write another"
    public = ", or take KAITO's own image of the model (annotation kaito.sh/model-files: kaito)"
    kaitos = public if model.image_tag and not asked.tuned else ""
    return f"{told}{default}; {newer}; or name an image in presetOptions.image whose torch has code for them{kaitos}"


def _too_small(asked: Asked, model: Model, size: InstanceType, *, catalog: Catalog) -> str:
    """Machines without room for the model; and which have it."""
    fit = fits(model, size, asked.resource.count, catalog=catalog)
    if not isinstance(fit, Misfit):
        return ""
    sizes = f"; these are large enough: {catalog.with_prices(fit.sizes)}" if fit.sizes else ""
    more = f"; or write resource.count: {fit.count}" if fit.count else ""
    return f"{'; '.join(fit.problems)}{sizes}{more}"


def _not_alone(asked: Asked, model: Model, size: InstanceType, *, catalog: Catalog) -> str:
    """Every replica of ours is one process on one machine; of several machines, each gets a replica."""
    if _source(asked, model) in (None, Source.KAITO):
        return ""
    alone = fits(model, size, 1, catalog=catalog)
    if not isinstance(alone, Misfit):
        return ""
    larger = f", such as {catalog.with_prices(alone.sizes)}" if alone.sizes else ""
    return (
        f"{model.name} needs more than one machine of this size, and this runtime spreads a model over the GPUs of "
        f"one: write a larger one{larger}"
    )


def _parts(asked: Asked, model: Model | None, *, gpus: int) -> Iterator[Problem]:
    """KAITO's images of large models have as many parts as they were made in. ``gpus`` of a machine: 0 if unknown."""
    if model is None or not model.distributed or _source(asked, model) is not Source.KAITO:
        return
    if told := split_by_kaito(model, machines=asked.resource.count, gpus=gpus):
        yield Problem("resource.count", told, Reason.DOES_NOT_FIT)
