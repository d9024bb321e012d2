"""Which nodes a Workspace uses, and the labels that keep other Workspaces off them."""

from collections.abc import Collection, Iterable, Sequence

from kaito_operator.api import labels
from kaito_operator.api.selectors import matches
from kaito_operator.api.spec import Resource
from kaito_operator.plan import Apply, Key, Manifest
from kaito_operator.workspace.seen_machines import Node, Taint

TOLERATED = (("sku", "gpu"), (labels.GPU_RESOURCE, None), (labels.SPOT_TAINT, "spot"))
"""Taints that our pods tolerate, with their value; None is any."""
SOFT = "PreferNoSchedule"


def chosen(
    nodes: Iterable[Node],
    *,
    resource: Resource,
    key: Key,
    places: int,
    worked_on: Sequence[str],
    dead: Collection[str] = (),
) -> list[Node]:
    """The nodes that fill ``places``, best first, of those that were not bought.

    Held ones stay, also while they are not Ready: a kubelet that restarts is no reason to move a model, let alone to
    buy. Free ones come after: preferred ones, those that status.workerNodes names, those that the cloud will not take
    back at any time, then by name. ``dead``: those that
    have been not Ready for long. They come last, and not at all where another can be bought.
    """
    held = [n for n in nodes if n.holder == key and not n.deleting and _fits(n, resource)]
    free = [n for n in nodes if n.holder is None and _usable(n) and _fits(n, resource)]
    if resource.instance_type:
        held = [node for node in held if node.name not in dead]

    def rank(node: Node) -> tuple[bool, bool, bool, bool, bool, str]:
        preferred, known = node.name in resource.preferred_nodes, node.name in worked_on
        return (node.name in dead, node.holder is None, not preferred, not known, _is_spot(node), node.name)

    return sorted([*held, *free], key=rank)[:places]


def _fits(node: Node, resource: Resource) -> bool:
    """Whether it is of the size and has the labels. Any size will do for instanceType ""."""
    size = node.labels.get(labels.INSTANCE_TYPE, "")
    of_size = not resource.instance_type or size.lower() == resource.instance_type.lower()
    return of_size and matches(resource.label_selector, node.labels)


def _usable(node: Node) -> bool:
    """Whether our pods would run there now."""
    kept_off = any(taint.effect != SOFT and not _tolerated(taint) for taint in node.taints)
    return node.ready and not node.deleting and not node.unschedulable and not kept_off


def _is_spot(node: Node) -> bool:
    return any(taint.key == labels.SPOT_TAINT for taint in node.taints)


def _tolerated(taint: Taint) -> bool:
    return any(taint.key == key and value in (None, taint.value) for key, value in TOLERATED)


def reservation(key: Key) -> dict[str, str]:
    """The labels of a node that a Workspace holds."""
    return {labels.WORKSPACE: key.name, labels.WORKSPACE_NAMESPACE: key.namespace}


def reserving(nodes: Iterable[Node], *, key: Key) -> tuple[Apply, ...]:
    """Puts the reservation on those without; their resourceVersion lets only the first of two Workspaces win."""
    return tuple(
        Apply(_labelled(node, reservation(key), resource_version=node.resource_version), uid=node.uid)
        for node in nodes
        if node.holder is None
    )


def protecting(nodes: Iterable[Node]) -> tuple[Apply, ...]:
    """Keeps Karpenter from emptying nodes that were bought with a claim. What the claim says is copied when its node
    registers, and counts no more: the node alone is asked (seen on 1.14)."""
    return tuple(
        Apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node.name, "annotations": {labels.DO_NOT_DISRUPT: "true"}},
            },
            uid=node.uid,
        )
        for node in nodes
        if not node.undisrupted and node.labels.get(labels.REGISTERED) == "true"
    )


def releasing(nodes: Iterable[Node], *, key: Key) -> tuple[Apply, ...]:
    """Takes our reservation off: an apply takes away what its manager no longer sends."""
    return tuple(
        Apply(_labelled(node, {}), uid=node.uid) for node in nodes if node.holder == key and node.labelled_by_us
    )


def _labelled(node: Node, reserved: dict[str, str], *, resource_version: str = "") -> Manifest:
    version = {"resourceVersion": resource_version} if resource_version else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, **version, "labels": reserved}}
