"""What is wrong with a Workspace: every problem at once, each with its field and with what to write instead.

One validator for the pass and for admission. Shape and immutability are refused by the API server itself (the CEL rules
of the CRD); they are checked here again, for objects stored under older rules.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from kaito_operator.api.workspace import Inference, Preset, Resource, Tuning, Workspace
from presets.catalog import Catalog, UnknownModel
from presets.fit import Misfit, fits

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and what to write instead."""

    field: str
    message: str
    reason: str = "Invalid"

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def parse(manifest: Mapping[str, Any]) -> Workspace | tuple[Problem, ...]:
    """The typed Workspace, or what keeps it from being one."""
    try:
        return Workspace.model_validate(
            {k: manifest[k] for k in ("resource", "inference", "tuning", "status") if k in manifest}
        )
    except ValidationError as wrong:
        return tuple(Problem(".".join(map(str, p["loc"])), p["msg"]) for p in wrong.errors())


def problems(workspace: Workspace, *, name: str, catalog: Catalog) -> tuple[Problem, ...]:
    """All problems of a Workspace; empty if it can be worked on."""
    found: list[Problem] = []
    if not NAME.fullmatch(name):
        found.append(Problem("metadata.name", "must be a DNS label: at most 63 characters of a-z, 0-9 and -"))
    if (workspace.inference is None) == (workspace.tuning is None):
        found.append(Problem("inference", "give exactly one of inference and tuning"))
    if workspace.resource is None:
        found.append(Problem("resource", "is needed: instanceType and labelSelector"))
        return tuple(found)
    if workspace.inference is not None:
        found += _inference(workspace.inference, workspace.resource, catalog)
    if workspace.tuning is not None:
        found += _tuning(workspace.tuning, workspace.resource, catalog)
    return tuple(found)


def _inference(inference: Inference, resource: Resource, catalog: Catalog) -> list[Problem]:
    if (inference.preset is None) == (inference.template is None):
        return [Problem("inference", "give exactly one of preset and template")]
    if inference.preset is None:
        return []
    return _preset(inference.preset, "inference.preset", catalog) or _fit(inference.preset, resource, catalog)


def _tuning(tuning: Tuning, resource: Resource, catalog: Catalog) -> list[Problem]:
    found = []
    if resource.count != 1:
        found.append(Problem("resource.count", "tuning runs on one machine: must be 1"))
    if tuning.preset is None:
        return [*found, Problem("tuning.preset", "is needed")]
    found += _preset(tuning.preset, "tuning.preset", catalog)
    if not found and not catalog.model(tuning.preset.name).tuning:
        able = ", ".join(sorted(name for name, model in catalog.models.items() if model.tuning))
        found.append(Problem("tuning.preset.name", f"{tuning.preset.name} cannot be tuned; these can: {able}"))
    return found


def _preset(preset: Preset, field: str, catalog: Catalog) -> list[Problem]:
    try:
        model = catalog.model(preset.name)
    except UnknownModel as unknown:
        return [Problem(f"{field}.name", str(unknown), "UnknownPreset")]
    image = preset.presetOptions.image if preset.presetOptions else ""
    if model.access == "private" and not preset.private:
        return [Problem(f"{field}.accessMode", f"{model.name} is not published: private, and presetOptions.image")]
    if preset.private and not image:
        return [Problem(f"{field}.presetOptions.image", "is needed when accessMode is private")]
    return []


def _fit(preset: Preset, resource: Resource, catalog: Catalog) -> list[Problem]:
    if not resource.instanceType:
        return []  # nodes of the user's own: what they have is seen when they are there
    size = catalog.instance_type(resource.instanceType)
    if size is None:
        hint = ", ".join(catalog.like(resource.instanceType)) or "see `kaito models`"
        known = f"{resource.instanceType} is not a known instance type; nearest: {hint}"
        return [Problem("resource.instanceType", known, "UnknownInstanceType")]
    fit = fits(catalog.model(preset.name), size, resource.count, catalog=catalog)
    if not isinstance(fit, Misfit):
        return []
    sizes = f"; these fit: {', '.join(fit.sizes)}" if fit.sizes else ""
    return [Problem("resource.instanceType", f"{'; '.join(fit.problems)}{sizes}", "DoesNotFit")]
