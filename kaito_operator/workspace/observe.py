"""From the mirror to one frozen value: everything that a plan for one Workspace may know."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kaito_operator.api.kinds import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    JOB,
    MACHINE,
    NODE,
    NODECLAIM,
    POD,
    STATEFUL_SET,
    WORKSPACE,
    Kind,
)
from kaito_operator.api.workspace import Workspace, parse_workspace
from kaito_operator.fleet import Fleet, fleet
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest, Ref, Refusal, Selection
from kaito_operator.workspace import attempts, history, hub_models, names, seen_machines, seen_pods
from kaito_operator.workspace import post_mortem as last_words
from kaito_operator.workspace.history import Revision
from kaito_operator.workspace.hub_models import Answer, AnswerOf
from kaito_operator.workspace.post_mortem import PostMortem, post_mortem
from kaito_operator.workspace.purchase import Purchase
from kaito_operator.workspace.seen_machines import Machine, Node
from kaito_operator.workspace.seen_pods import Job, Pod, Progress

BOUGHT = (MACHINE, NODECLAIM)
RUNS = (DEPLOYMENT, STATEFUL_SET)
LIVING = {kind.kind for kind in (CONFIG_MAP, *names.NAMED)}
"""Kinds that are read for what they are, and not for what they tell of a claim that is gone."""
ProgressOf = Callable[[Key, str], Progress | None]
"""How far a pod of a Workspace has trained, as far as anybody knows."""


WordsOf = Callable[[Key, str], str | None]
"""How far a pod of a Workspace is with loading its model, in its own words."""


def unknown(_key: Key, _pod: str) -> None:
    """Nobody has asked it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One Workspace and all it touches, at one moment."""

    workspace: Workspace
    machines: tuple[Machine, ...] = ()
    """All with its labels, also those of an earlier Workspace of the name, and of KAITO."""
    nodes: tuple[Node, ...] = ()
    """Its own and nobody's; what another Workspace holds is not even looked at."""
    deployment: Manifest | None = None
    stateful_set: Manifest | None = None
    service: Manifest | None = None
    headless: Manifest | None = None
    """The Service that names the pods of the StatefulSet."""
    foreign: tuple[Manifest, ...] = ()
    """Objects that have the name of one of ours and belong to somebody else."""
    pods: tuple[Pod, ...] = ()
    jobs: tuple[Job, ...] = ()
    config_maps: tuple[Manifest, ...] = ()
    """Those of ours, one for each Job."""
    claim: Manifest | None = None
    """Of the volume that outlives the tuning pods."""
    own_config: Manifest | None = None
    """The ConfigMap that ``tuning.config`` names."""
    progress: Progress | None = None
    refused: Refusal | None = None
    """What the API server said to the Deployment, or StatefulSet, as it was last written."""
    absent: frozenset[Kind] = frozenset()
    """The kinds to buy with that the cluster does not know, of those that are watched."""
    fleet: Fleet = field(default_factory=Fleet)
    """All nodes of the cluster; counted only while one of its own is not Ready."""
    post_mortem: PostMortem = field(default_factory=PostMortem)
    revisions: tuple[Revision, ...] = ()
    """What was asked for before."""
    hub: Answer | None = None
    """What the Hub says of a model that is not in the catalogue."""

    @property
    def runs(self) -> Manifest | None:
        """What runs the pods that serve."""
        return self.stateful_set or self.deployment

    @property
    def untouched(self) -> bool:
        """Whether nothing has been bought or made for it yet."""
        made = self.machines or self.jobs or self.serving or self.claim
        return not made and not attempts.recorded(self.workspace.status)

    @property
    def serving(self) -> tuple[Manifest, ...]:
        """Everything of the serving that is there."""
        found = (self.deployment, self.stateful_set, self.service, self.headless)
        return tuple(each for each in found if each is not None)


def observe(
    mirror: Mirror,
    key: Key,
    *,
    progress_of: ProgressOf = unknown,
    words_of: WordsOf = unknown,
    answer_of: AnswerOf = hub_models.nothing,
) -> Observed | None:
    """What is seen of the Workspace that ``key`` names; None if there is none."""
    manifest = mirror.get(WORKSPACE, key.name, key.namespace)
    if manifest is None:
        return None
    workspace = parse_workspace(manifest)
    named = names.found(mirror, workspace)
    deployment, stateful_set, service, headless, claim = (
        o if o is not None and _owned_by(o, workspace.uid) else None for o in named
    )
    pods = tuple(_pod(p, key, words_of=words_of) for p in mirror.of_workspace(POD, key))
    nodes = tuple(seen_machines.node(n) for n in (*mirror.of_workspace(NODE, key), *mirror.of_nobody(NODE)))
    read = mirror.read_for(key)
    return Observed(
        workspace=workspace,
        machines=tuple(seen_machines.machine(m) for kind in BOUGHT for m in mirror.of_workspace(kind, key)),
        nodes=nodes,
        fleet=fleet(mirror.all(NODE)) if any(node.holder and not node.ready for node in nodes) else Fleet(),
        post_mortem=post_mortem(each for each in read if each["kind"] not in LIVING),
        deployment=deployment,
        stateful_set=stateful_set,
        service=service,
        headless=headless,
        foreign=tuple(o for o in named if o is not None and not _owned_by(o, workspace.uid)),
        pods=pods,
        jobs=tuple(seen_pods.job(j) for j in mirror.of_workspace(JOB, key) if _owned_by(j, workspace.uid)),
        config_maps=tuple(c for c in mirror.of_workspace(CONFIG_MAP, key) if _owned_by(c, workspace.uid)),
        claim=claim,
        own_config=next((each for each in read if each["kind"] == CONFIG_MAP.kind), None),
        refused=next(filter(None, (mirror.refusal(kind, key.name, key.namespace) for kind in RUNS)), None),
        revisions=_revisions(mirror, workspace),
        hub=hub_models.known(workspace, answer_of=answer_of),
        absent=frozenset(kind for kind in BOUGHT if mirror.lacks(kind)),
        progress=next(filter(None, (progress_of(key, pod.name) for pod in pods)), None),
    )


def _revisions(mirror: Mirror, workspace: Workspace) -> tuple[Revision, ...]:
    """A StatefulSet keeps revisions of its own under the same labels; those are not meant."""
    found = mirror.of_workspace(CONTROLLER_REVISION, workspace.key)
    return tuple(history.of_manifest(each) for each in found if _owned_by(each, workspace.uid))


def _pod(manifest: Manifest, key: Key, *, words_of: WordsOf) -> Pod:
    pod = seen_pods.pod(manifest)
    return replace(pod, told=words_of(key, pod.name) or "")


def named_by(workspace: Workspace) -> tuple[Ref, ...]:
    """Objects of the user's that the Workspace names: nobody watches them, so they are read before a pass."""
    tuning = workspace.body.tuning if workspace.body is not None else None
    if tuning is None or tuning.config is None or workspace.deleted_at is not None:
        return ()
    return (Ref(CONFIG_MAP.api_version, CONFIG_MAP.kind, tuning.config, workspace.key.namespace),)


def reads(mirror: Mirror, key: Key, *, purchase: Purchase) -> tuple[Ref | Selection, ...]:
    """What must be read live before a pass for the Workspace of this key."""
    manifest = mirror.get(WORKSPACE, key.name, key.namespace)
    if manifest is None:
        return ()
    workspace = parse_workspace(manifest)
    return (*named_by(workspace), *names.reads(mirror, workspace), *last_words.reads(mirror, workspace, purchase))


def _owned_by(manifest: Manifest, uid: str) -> bool:
    """Whether the object's controller is the Workspace of this uid."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner["uid"] == uid for owner in owners)
