"""What of the API is not carried out. It is accepted and said to be so."""

from kaito_operator.api.spec import Preset
from kaito_operator.api.workspace import WorkspaceBody
from presets.catalog import Catalog
from presets.fit import Misfit, fits


def unsupported(body: WorkspaceBody, *, catalog: Catalog) -> str:
    """In words, what is not carried out yet; "" if all is. For a body without problems."""
    preset = body.tuning.preset if body.tuning is not None else body.inference.preset if body.inference else None
    if preset is None:
        return ""
    if "/" in preset.name:
        return "models of the Hugging Face Hub are not served by this version yet: `kaito models` lists those that are"
    if _needs_several_machines(body, preset, catalog=catalog):
        return "a model that needs more than one machine is not served by this version yet: take a larger instanceType"
    return ""


def _needs_several_machines(body: WorkspaceBody, preset: Preset, *, catalog: Catalog) -> bool:
    """Whether one machine is too small; of several, each replica needs one."""
    size = catalog.instance_type(body.resource.instance_type)
    return size is not None and isinstance(fits(catalog.model(preset.name), size, 1, catalog=catalog), Misfit)
