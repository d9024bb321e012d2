"""What cannot be carried out although the API has it. It is accepted and said to be so, before anything is bought."""

from kaito_operator.api.reasons import Reason
from kaito_operator.api.spec import Resource
from kaito_operator.workspace import kaito_server
from kaito_operator.workspace.finding import Finding, wrong
from kaito_operator.workspace.model_files import KaitoImage
from kaito_operator.workspace.task import ServedPreset, Task
from presets.cards import OLDEST, Capability
from presets.catalog import Catalog, InstanceType, Model
from presets.fit import Misfit, fits, smallest, too_old


def unsupported(asked: Task, resource: Resource, *, catalog: Catalog, oldest: Capability = OLDEST) -> Finding | None:
    """Why not; None if all is. ``oldest``: the cards that the torch of this installation's images has code for."""
    if not isinstance(asked.served, ServedPreset):
        return None
    model, size = asked.served.model, catalog.instance_type(resource.instance_type)
    if isinstance(asked.served.files, KaitoImage) and model.distributed:
        told = kaito_server.spreads(model, machines=resource.count, gpus=size.gpus if size else 0)
        return wrong(Reason.DOES_NOT_FIT, told) if told else None
    if size is not None and asked.served.by_this_installation:
        told = too_old(size, catalog=catalog, oldest=oldest)
        if told:
            return wrong(
                Reason.DOES_NOT_FIT, told, cure=_newer_cards(asked, model, size, catalog=catalog, oldest=oldest)
            )
    alone = fits(model, size, 1, catalog=catalog) if size is not None else None
    if isinstance(alone, Misfit):
        larger = f", such as {catalog.with_prices(alone.sizes)}" if alone.sizes else ""
        return wrong(Reason.NOT_YET_SUPPORTED, _one_machine(model), cure=f"take a larger instanceType{larger}")
    return None


def _newer_cards(asked: Task, model: Model, size: InstanceType, *, catalog: Catalog, oldest: Capability) -> str:
    """Sizes that would do, for a training with no less memory than was asked for; or another torch."""
    at_least = size.gpu_memory_gib if asked.tuned is not None else 0
    sizes = smallest(model, 1, catalog=catalog, cloud=size.cloud, oldest=oldest, at_least=at_least)
    others = f"take another instanceType, such as {catalog.with_prices(sizes)}; or name" if sizes else "name"
    return f"{others} an image in presetOptions.image whose torch has code for these cards"


def _one_machine(model: Model) -> str:
    """Every replica of ours is one process on one machine; of several machines, each gets a replica."""
    return (
        f"{model.name} needs more than one machine of this size, and this runtime spreads a model over the GPUs of one"
    )
