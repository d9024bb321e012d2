"""What others say of a claim that is gone: its events, which outlive it, and the condition of its node class.

Karpenter deletes a claim that it cannot launch within a second, and tells why in an event alone, or not at all if the
class of nodes is not ready (seen on 1.14). What it last said itself stands in our status, and comes before these.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kaito_operator.api.conditions import by_type
from kaito_operator.api.kinds import BY_NAME, EVENT, NODECLAIM
from kaito_operator.api.reasons import Reason
from kaito_operator.api.workspace import Workspace
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Manifest, Ref, Selection
from kaito_operator.workspace import attempts
from kaito_operator.workspace.attempts import Loss
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.purchase import NodeClass, Purchase

NO_CAPACITY = "InsufficientCapacityError"


@dataclass(frozen=True, slots=True)
class PostMortem:
    """What was found out about claims that are gone."""

    said: Mapping[str, Loss] = field(default_factory=dict)
    """By the claim's name."""
    node_class: str = ""
    """What the class of nodes says of itself if it is not ready."""

    def loss_of(self, name: str) -> Loss | None:
        """Why the claim of this name was lost; None if nobody says."""
        if found := self.said.get(name):
            return found
        return Loss(Reason.LAUNCH_FAILED, f"NodeClaim {name}: {self.node_class}") if self.node_class else None


def post_mortem(read: Iterable[Manifest]) -> PostMortem:
    """From events and a node class that were read."""
    read = tuple(read)
    events = [each for each in read if each["kind"] == EVENT.kind]
    events.sort(key=lambda event: (event.get("lastTimestamp") or "", event["metadata"]["name"]))
    said = {event["involvedObject"]["name"]: _loss(event) for event in events}
    unready = (_unready(each) for each in read if each["kind"] != EVENT.kind)
    return PostMortem(said, next(filter(None, unready), ""))


def _loss(event: Manifest) -> Loss:
    reason = Reason.ALLOCATION_FAILED if event.get("reason") == NO_CAPACITY else Reason.LAUNCH_FAILED
    name, message = event["involvedObject"]["name"], event.get("message") or event.get("reason", "")
    return Loss(reason, f"NodeClaim {name}: {message.removeprefix(f'NodeClaim {name} event: ')}")


def _unready(node_class: Manifest) -> str:
    ready = by_type((node_class.get("status") or {}).get("conditions") or ()).get("Ready", {})
    if ready.get("status") != "False":
        return ""
    name = f"{node_class['kind']} {node_class['metadata']['name']}"
    return f"its node class {name} is not Ready: {ready.get('message') or ready.get('reason', '')}"


def reads(mirror: Mirror, workspace: Workspace, purchase: Purchase) -> Iterator[Ref | Selection]:
    """What has to be read for claims that are gone and whose end nobody has explained yet."""
    if purchase.node_class is None or workspace.deleted_at is not None:
        return
    gone = [name for name in _unexplained(workspace) if mirror.get(NODECLAIM, name) is None]
    for name in gone:
        yield Selection(
            EVENT.api_version,
            EVENT.kind,
            fields={"involvedObject.kind": NODECLAIM.kind, "involvedObject.name": name, "type": "Warning"},
        )
    if gone and (ref := _ref(purchase.node_class)) is not None:
        yield ref


def _unexplained(workspace: Workspace) -> Iterator[str]:
    """Names of claims that should be there, or that went without a word."""
    for attempt in attempts.recorded(workspace.status).values():
        if attempt.asked:
            yield machine_name(workspace.uid, slot=attempt.slot, attempt=attempt.number)
        elif attempt.unexplained:
            yield machine_name(workspace.uid, slot=attempt.slot, attempt=attempt.number - 1)


def _ref(node_class: NodeClass) -> Ref | None:
    """Where it is, if it is of a kind that we know how to read."""
    known = (kind for kind in BY_NAME.values() if kind.kind == node_class.kind)
    versions = [kind.api_version for kind in known if kind.api_version.startswith(f"{node_class.group}/")]
    return Ref(versions[0], node_class.kind, node_class.name) if versions else None
