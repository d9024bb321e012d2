"""The Workspace controller as the reconciler takes it: what it watches, whom that concerns, how it decides."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kaito_operator.admission import Door
from kaito_operator.api import labels
from kaito_operator.api.conditions import is_true
from kaito_operator.api.kinds import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    JOB,
    NODE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SERVICE,
    STATEFUL_SET,
    WORKSPACE,
)
from kaito_operator.api.problems import listed
from kaito_operator.api.reasons import ConditionType
from kaito_operator.api.runtime import Runtime
from kaito_operator.api.validation import problems
from kaito_operator.api.workspace import conditions_of, parse_workspace
from kaito_operator.hub_board import HubBoard
from kaito_operator.loading_progress import loading_board
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest
from kaito_operator.reconciler import Controller, Watch
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.training_progress import progress_board
from kaito_operator.workspace.installation import installation
from kaito_operator.workspace.observe import Observed, observe, reads
from kaito_operator.workspace.plan import plan
from presets.catalog import Catalog
from presets.hub.reader import ENDPOINT, Hub

OURS: dict[str, str | None] = {labels.WORKSPACE: None}


def workspace_controller(settings: WorkspaceSettings, catalog: Catalog) -> Controller[Observed]:
    """Workspace → Machines, then a tuning Job where one is asked for, then what serves the model."""
    training, loading, installed = progress_board(), loading_board(), installation(settings)
    hub = HubBoard(_hub(settings), catalog)
    return Controller(
        name="kaito-workspace",
        parent=WORKSPACE,
        field_manager=labels.WORKSPACE_MANAGER,
        watches=(
            Watch(WORKSPACE),
            Watch(installed.purchase.kind, OURS),
            Watch(NODE),
            Watch(DEPLOYMENT, OURS),
            Watch(STATEFUL_SET, OURS),
            Watch(CONTROLLER_REVISION, OURS),
            Watch(SERVICE, OURS),
            Watch(JOB, OURS),
            Watch(CONFIG_MAP, OURS),
            Watch(PERSISTENT_VOLUME_CLAIM, OURS),
            Watch(POD, OURS),
        ),
        concerns=concerns,
        reads=partial(reads, purchase=installed.purchase),
        observe=partial(observe, progress_of=training.of, words_of=loading.of, answer_of=hub.of),
        background=(training.keep_up, loading.keep_up, hub.keep_up),
        mistakes=partial(mistakes, catalog=catalog, runtime=installed.runtime),
        door=Door(settings.webhook_port, Path(settings.webhook_certificates))
        if settings.webhook_certificates
        else None,
        plan=partial(plan, catalog=catalog, installation=installed),
    )


def _hub(settings: WorkspaceSettings) -> Hub:
    """The Hub as the operator sees it."""
    return Hub(cache=Path(settings.hub_cache), token=settings.hub_token, endpoint=settings.hub_endpoint or ENDPOINT)


def mistakes(manifest: Manifest, *, catalog: Catalog, runtime: Runtime) -> str:
    """Everything to mend in a Workspace, as a pass would say it."""
    return listed(problems(parse_workspace(manifest), catalog=catalog, runtime=runtime))


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
