"""Which nodes a Workspace uses: those that fit, best first, the same ones each time it is asked."""

from collections.abc import Mapping, Sequence

from kaito_operator.api import labels
from kaito_operator.api.workspace import LabelSelector, Requirement, Resource
from kaito_operator.plan import Apply, Key, Manifest
from kaito_operator.workspace.observe import NodeSeen, Observed


def usable(resource: Resource, nodes: Sequence[NodeSeen], *, key: Key) -> list[NodeSeen]:
    """The nodes that may be used, in no order: ready, of the size, matching, and nobody else's."""
    return [
        node
        for node in nodes
        if node.ready
        and not node.deleting
        and node.reserved_for in (None, key)
        and _of_size(node, resource.instanceType)
        and matches(resource.labelSelector, node.labels)
    ]


def chosen(resource: Resource, seen: Observed) -> list[NodeSeen]:
    """At most ``count`` nodes: preferred ones first, then those in use, then our own purchases, then by name."""
    before = set(seen.status.get("workerNodes") or ())
    preferred = set(resource.preferredNodes)

    def rank(node: NodeSeen) -> tuple[bool, bool, bool, str]:
        return (node.name not in preferred, node.name not in before, node.reserved_for != seen.key, node.name)

    return sorted(usable(resource, seen.nodes, key=seen.key), key=rank)[: resource.count]


def matches(selector: LabelSelector, found: Mapping[str, str]) -> bool:
    """Whether labels meet matchLabels and matchExpressions, as Kubernetes reads them."""
    return all(found.get(key) == value for key, value in selector.matchLabels.items()) and all(
        _meets(requirement, found.get(requirement.key)) for requirement in selector.matchExpressions
    )


def _meets(requirement: Requirement, value: str | None) -> bool:
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


def _of_size(node: NodeSeen, instance_type: str) -> bool:
    """ "" takes any size: these are the user's own nodes."""
    return not instance_type or node.labels.get(labels.INSTANCE_TYPE, "").lower() == instance_type.lower()


def reservations(nodes: Sequence[NodeSeen], *, key: Key) -> tuple[Apply, ...]:
    """Labels for the chosen nodes that do not bear them yet, so that no other Workspace takes them."""
    return tuple(Apply(_labelled(node, _reserving(key)), uid=node.uid) for node in nodes if node.reserved_for is None)


def releases(nodes: Sequence[NodeSeen], *, key: Key) -> tuple[Apply, ...]:
    """Takes our labels off again: server-side apply removes what its manager no longer sends."""
    return tuple(
        Apply(_labelled(node, {}), uid=node.uid) for node in nodes if node.reserved_by_us and node.reserved_for == key
    )


def _reserving(key: Key) -> dict[str, str]:
    return {labels.WORKSPACE: key.name, labels.WORKSPACE_NAMESPACE: key.namespace}


def _labelled(node: NodeSeen, wanted: dict[str, str]) -> Manifest:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": wanted}}
