"""The names of a Workspace's own objects, which others may have taken: that is asked before anything is bought."""

from collections.abc import Iterator

from kaito_operator.api.kinds import (
    DEPLOYMENT,
    JOB,
    MACHINE,
    NODECLAIM,
    PERSISTENT_VOLUME_CLAIM,
    SERVICE,
    STATEFUL_SET,
    Kind,
)
from kaito_operator.api.workspace import Workspace, WorkspaceBody
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Manifest, Ref
from kaito_operator.workspace import attempts, tuning
from kaito_operator.workspace.services import headless_name

NAMED = (DEPLOYMENT, STATEFUL_SET, SERVICE, PERSISTENT_VOLUME_CLAIM)
BEGUN = (MACHINE, NODECLAIM, JOB, *NAMED)
"""Of these there is one as soon as anything has been bought or made for a Workspace."""


def found(mirror: Mirror, workspace: Workspace) -> list[Manifest | None]:
    """Deployment, StatefulSet, Service, the StatefulSet's own Service, and the claim of a tuning's volume: what has
    their names, whoever it belongs to."""
    key, read = workspace.key, {Ref.of(each): each for each in mirror.read_for(workspace.key)}
    named = (
        (DEPLOYMENT, key.name),
        (STATEFUL_SET, key.name),
        (SERVICE, key.name),
        (SERVICE, headless_name(workspace)),
        (PERSISTENT_VOLUME_CLAIM, tuning.claim_name(workspace)),
    )
    return [
        mirror.get(kind, name, key.namespace) or read.get(Ref(kind.api_version, kind.kind, name, key.namespace))
        for kind, name in named
    ]


def reads(mirror: Mirror, workspace: Workspace) -> Iterator[Ref]:
    """What others have made is watched by nobody, so it is read for as long as nothing is bought."""
    body, key = workspace.body, workspace.key
    if body is None or workspace.deleted_at is not None or not body.resource.instance_type:
        return
    if attempts.recorded(workspace.status) or any(mirror.of_workspace(kind, key) for kind in BEGUN):
        return
    for kind, name in _wanted(workspace, body):
        yield Ref(kind.api_version, kind.kind, name, key.namespace)


def _wanted(workspace: Workspace, body: WorkspaceBody) -> Iterator[tuple[Kind, str]]:
    """Which objects the Workspace will have; of several nodes it may be either one that runs the pods."""
    name = workspace.key.name
    if body.tuning is not None:
        yield PERSISTENT_VOLUME_CLAIM, tuning.claim_name(workspace)
    if body.tuning is None or body.tuning.serve:
        yield SERVICE, name
        yield DEPLOYMENT, name
    if body.resource.count > 1:
        yield SERVICE, headless_name(workspace)
        yield STATEFUL_SET, name
