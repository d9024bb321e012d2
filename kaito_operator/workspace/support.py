"""What of the API is carried out. The rest is accepted and said to be so."""

from kaito_operator.api.spec import Preset
from kaito_operator.api.workspace import WorkspaceBody
from presets.catalog import Catalog
from presets.fit import Misfit, fits


def served_preset(body: WorkspaceBody, *, catalog: Catalog) -> Preset | str:
    """The preset to serve; or, in words, what is not carried out yet. For a body without problems."""
    if body.tuning is not None:
        return "tuning is not carried out by this version yet: no machine is bought for it"
    if body.inference is None or body.inference.preset is None:
        return "inference.template is not carried out by this version yet: write inference.preset"
    if body.inference.adapters:
        return "inference.adapters are not carried out by this version yet: leave them out to serve the model alone"
    if "/" in body.inference.preset.name:
        return "models of the Hugging Face Hub are not served by this version yet: `kaito models` lists those that are"
    if _needs_several_machines(body, catalog=catalog):
        return "a model that needs more than one machine is not served by this version yet: take a larger instanceType"
    return body.inference.preset


def _needs_several_machines(body: WorkspaceBody, *, catalog: Catalog) -> bool:
    """Whether one machine is too small; of several, each replica needs one."""
    size = catalog.instance_type(body.resource.instance_type)
    if size is None or body.inference is None or body.inference.preset is None:
        return False
    model = catalog.model(body.inference.preset.name)
    return isinstance(fits(model, size, 1, catalog=catalog), Misfit)
