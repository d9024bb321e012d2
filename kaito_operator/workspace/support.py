"""What cannot be carried out although the API has it. It is accepted and said to be so, before anything is bought."""

from kaito_operator.api.reasons import Reason
from kaito_operator.api.spec import Resource
from kaito_operator.workspace import kaito_server
from kaito_operator.workspace.finding import Finding, wrong
from kaito_operator.workspace.model_files import KaitoImage
from kaito_operator.workspace.task import ServedPreset, Task
from presets.catalog import Catalog, Model
from presets.fit import Misfit, fits


def unsupported(asked: Task, resource: Resource, *, catalog: Catalog) -> Finding | None:
    """Why not; None if all is."""
    if not isinstance(asked.served, ServedPreset):
        return None
    model, size = asked.served.model, catalog.instance_type(resource.instance_type)
    if isinstance(asked.served.files, KaitoImage) and model.distributed:
        told = kaito_server.spreads(model, machines=resource.count, gpus=size.gpus if size else 0)
        return wrong(Reason.DOES_NOT_FIT, told) if told else None
    alone = fits(model, size, 1, catalog=catalog) if size is not None else None
    if isinstance(alone, Misfit):
        larger = f", such as {catalog.with_prices(alone.sizes)}" if alone.sizes else ""
        return wrong(Reason.NOT_YET_SUPPORTED, _one_machine(model), cure=f"take a larger instanceType{larger}")
    return None


def _one_machine(model: Model) -> str:
    """Every replica of ours is one process on one machine; of several machines, each gets a replica."""
    return (
        f"{model.name} needs more than one machine of this size, and this runtime spreads a model over the GPUs of one"
    )
