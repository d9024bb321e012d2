"""The Workspace controller as the reconciler takes it: what it watches, whom that concerns, how it decides."""

from collections.abc import Iterator
from functools import partial

from kaito_operator.api import labels
from kaito_operator.api.kinds import DEPLOYMENT, MACHINE, NODE, POD, SERVICE, WORKSPACE
from kaito_operator.api.reasons import ConditionType
from kaito_operator.api.workspace import conditions_of
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest
from kaito_operator.reconciler import Controller, Watch
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.images import Images
from kaito_operator.workspace.observe import Observed, observe
from kaito_operator.workspace.plan import plan
from kaito_operator.workspace.seen import is_true
from presets.catalog import Catalog

OURS: dict[str, str | None] = {labels.WORKSPACE: None}


def workspace_controller(settings: WorkspaceSettings, catalog: Catalog) -> Controller[Observed]:
    """Workspace → Machines, then a Deployment and a Service."""
    images = Images(settings.preset_registry, settings.preset_version)
    return Controller(
        name="kaito-workspace",
        parent=WORKSPACE,
        field_manager=labels.WORKSPACE_MANAGER,
        watches=(
            Watch(WORKSPACE),
            Watch(MACHINE, OURS),
            Watch(NODE),
            Watch(DEPLOYMENT, OURS),
            Watch(SERVICE, OURS),
            Watch(POD, OURS),
        ),
        concerns=concerns,
        observe=observe,
        plan=partial(plan, catalog=catalog, images=images),
    )


def concerns(manifest: Manifest, mirror: Mirror) -> Iterator[Key]:
    """Which Workspaces an object concerns: itself, the one it is labelled with, or those that may want the node."""
    meta = manifest["metadata"]
    own = meta.get("labels") or {}
    namespace = meta.get("namespace") or own.get(labels.WORKSPACE_NAMESPACE)
    if manifest["kind"] == WORKSPACE.kind:
        yield Key(meta["namespace"], meta["name"])
    elif labels.WORKSPACE in own and namespace:
        yield Key(namespace, own[labels.WORKSPACE])
    elif manifest["kind"] == NODE.kind:
        yield from _in_want_of_nodes(mirror)


def _in_want_of_nodes(mirror: Mirror) -> Iterator[Key]:
    """Everybody who has too few: a pass tells whether the node is of use."""
    for workspace in mirror.all(WORKSPACE):
        meta = workspace["metadata"]
        if not is_true(conditions_of(workspace.get("status")), ConditionType.RESOURCE_READY):
            yield Key(meta["namespace"], meta["name"])
