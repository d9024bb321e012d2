"""The Workspace controller as the reconciler takes it: what it watches, whom that concerns, how it decides."""

from collections.abc import Iterable
from functools import partial

from kaito_operator.api import labels
from kaito_operator.api.kinds import DEPLOYMENT, MACHINE, NODE, POD, SERVICE, WORKSPACE
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest
from kaito_operator.reconciler import Controller, Watch
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.images import Images
from kaito_operator.workspace.observe import Observed, observe
from kaito_operator.workspace.plan import plan
from presets.catalog import Catalog

OURS: dict[str, str | None] = {labels.WORKSPACE: None}


def workspace_controller(settings: WorkspaceSettings, catalog: Catalog) -> Controller[Observed]:
    """Workspace → Machines + Deployment + Service."""
    images = Images(settings.preset_registry, settings.preset_version)
    return Controller(
        name="kaito-workspace",
        field_manager=labels.WORKSPACE_MANAGER,
        parent=WORKSPACE,
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


def concerns(manifest: Manifest, mirror: Mirror) -> Iterable[Key]:
    """A Workspace concerns itself; a node its reserver, or everybody who waits; the rest the Workspace of its label."""
    meta = manifest["metadata"]
    if manifest["kind"] == WORKSPACE.kind:
        return (Key(meta["namespace"], meta["name"]),)
    own = meta.get("labels") or {}
    namespace = meta.get("namespace") or own.get(labels.WORKSPACE_NAMESPACE)
    if labels.WORKSPACE in own and namespace:
        return (Key(namespace, own[labels.WORKSPACE]),)
    return _waiting(mirror) if manifest["kind"] == NODE.kind else ()


def _waiting(mirror: Mirror) -> Iterable[Key]:
    """The Workspaces that have fewer nodes than they want."""
    for workspace in mirror.all(WORKSPACE):
        status = workspace.get("status") or {}
        if len(status.get("workerNodes") or ()) < (workspace.get("resource") or {}).get("count", 1):
            yield Key(workspace["metadata"]["namespace"], workspace["metadata"]["name"])
