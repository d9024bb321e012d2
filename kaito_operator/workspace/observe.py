"""From the mirror to one frozen value: everything that a plan for one Workspace may know."""

from dataclasses import dataclass

from kaito_operator.api.kinds import DEPLOYMENT, MACHINE, NODE, POD, SERVICE, WORKSPACE
from kaito_operator.api.workspace import Workspace, parse_workspace
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest
from kaito_operator.workspace import seen
from kaito_operator.workspace.seen import Machine, Node, Pod, owned_by


@dataclass(frozen=True, slots=True)
class Observed:
    """One Workspace and all it touches, at one moment."""

    workspace: Workspace
    machines: tuple[Machine, ...] = ()
    """All with its labels, also those of an earlier Workspace of the name, and of KAITO."""
    nodes: tuple[Node, ...] = ()
    """Its own and nobody's; what another Workspace holds is not even looked at."""
    deployment: Manifest | None = None
    service: Manifest | None = None
    foreign: tuple[Manifest, ...] = ()
    """Objects that have the name of one of ours and belong to somebody else."""
    pods: tuple[Pod, ...] = ()


def observe(mirror: Mirror, key: Key) -> Observed | None:
    """What is seen of the Workspace that ``key`` names; None if there is none."""
    manifest = mirror.get(WORKSPACE, key.name, key.namespace)
    if manifest is None:
        return None
    workspace = parse_workspace(manifest)
    named = [mirror.get(kind, key.name, key.namespace) for kind in (DEPLOYMENT, SERVICE)]
    deployment, service = (o if o is not None and owned_by(o, workspace.uid) else None for o in named)
    return Observed(
        workspace=workspace,
        machines=tuple(seen.machine(m) for m in mirror.of_workspace(MACHINE, key)),
        nodes=tuple(seen.node(n) for n in mirror.all(NODE) if seen.holder(n) in (None, key)),
        deployment=deployment,
        service=service,
        foreign=tuple(o for o in named if o is not None and not owned_by(o, workspace.uid)),
        pods=tuple(seen.pod(p) for p in mirror.of_workspace(POD, key)),
    )
