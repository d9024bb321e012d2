"""The Machines a Workspace asks for: what is missing at once, and never more than it wants nodes."""

from collections.abc import Iterable
from hashlib import sha256

from kaito_operator.api import labels
from kaito_operator.api.kinds import MACHINE, NODECLAIM
from kaito_operator.api.spec import Resource
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Apply, Delete, Manifest, Ref
from kaito_operator.workspace.attempts import Attempt
from kaito_operator.workspace.nodes import reservation
from kaito_operator.workspace.purchase import NodeClass, Purchase
from kaito_operator.workspace.seen_machines import Machine
from presets.catalog import InstanceType

PROVISIONER = "default"
NODE_POOL = "kaito"


def machine_name(uid: str, *, slot: int, attempt: int) -> str:
    """A function of identity: asked for twice it is the same Machine, not a second one.

    Agent pools have the Machine's name, and AKS allows them 12 characters.
    """
    return "ws" + sha256(f"{uid}/{slot}/{attempt}".encode()).hexdigest()[:9]


def kept(machines: tuple[Machine, ...], *, count: int, uid: str) -> tuple[Machine, ...]:
    """The Machines that stay: at most ``count``, our own first, then those that are ready.

    There can be others: of an earlier Workspace of the name whose finalizer somebody forced off, or of KAITO. They are
    paid for, so they are used as long as there is a place for them.
    """
    alive = [machine for machine in machines if not machine.deleting]
    return tuple(sorted(alive, key=lambda m: (m.owner_uid != uid, not m.ready, m.name))[:count])


def slots(machines: Iterable[Machine], *, uid: str) -> dict[int, Machine]:
    """The Workspace's own Machines by slot; one that is on its way out has its slot until it is gone."""
    own = [machine for machine in machines if machine.owner_uid == uid and machine.slot is not None]
    own.sort(key=lambda machine: (not machine.deleting, machine.attempt))  # of two the living, the later one
    return {machine.slot: machine for machine in own if machine.slot is not None}


def buying(
    workspace: Workspace,
    resource: Resource,
    attempts: Iterable[Attempt],
    *,
    size: InstanceType,
    disk_gib: int,
    purchase: Purchase,
) -> tuple[Apply, ...]:
    """Asks for the Machine of each attempt."""
    node_class = purchase.node_class
    if node_class is not None:
        made = [_claim(workspace, resource, attempt, size=size, node_class=node_class) for attempt in attempts]
    else:
        made = [_machine(workspace, resource, attempt, size=size, disk_gib=disk_gib) for attempt in attempts]
    return tuple(Apply(manifest, buys=True) for manifest in made)


def giving_up(machines: tuple[Machine, ...]) -> tuple[Delete, ...]:
    """Deletes those that are not being deleted yet."""
    return tuple(
        Delete(Ref(machine.kind.api_version, machine.kind.kind, machine.name), machine.uid, gives_up=True)
        for machine in machines
        if not machine.deleting
    )


def _machine(
    workspace: Workspace, resource: Resource, attempt: Attempt, *, size: InstanceType, disk_gib: int
) -> Manifest:
    """As KAITO 0.3 writes it; the annotations are ours."""
    name = machine_name(workspace.uid, slot=attempt.slot, attempt=attempt.number)
    return {
        "apiVersion": MACHINE.api_version,
        "kind": MACHINE.kind,
        "metadata": {
            "name": name,
            "labels": {
                **resource.label_selector.match_labels,
                labels.PROVISIONER_NAME: PROVISIONER,
                **reservation(workspace.key),
            },
            "annotations": _identity(workspace, attempt),
        },
        "spec": {
            "machineTemplateRef": {"name": name},
            "requirements": [
                {"key": labels.INSTANCE_TYPE, "operator": "In", "values": [size.name]},
                {"key": labels.PROVISIONER_NAME, "operator": "In", "values": [PROVISIONER]},
                {"key": labels.MACHINE_TYPE, "operator": "In", "values": ["gpu" if size.gpus else "cpu"]},
                {"key": labels.ARCH, "operator": "In", "values": ["amd64"]},
                {"key": labels.OS, "operator": "In", "values": ["linux"]},
            ],
            "resources": {"requests": {"storage": f"{disk_gib}Gi"}},
            **_taints(size),
        },
    }


def _claim(
    workspace: Workspace, resource: Resource, attempt: Attempt, *, size: InstanceType, node_class: NodeClass
) -> Manifest:
    """For any Karpenter. It never expires, is not disrupted, is not a spot machine; and has no finalizer of ours, which
    would stop a Karpenter that cannot launch it from launching anything. A request for storage would keep it from ever
    being initialized where nodes do not list any. All of this was seen on Karpenter 1.14."""
    return {
        "apiVersion": NODECLAIM.api_version,
        "kind": NODECLAIM.kind,
        "metadata": {
            "name": machine_name(workspace.uid, slot=attempt.slot, attempt=attempt.number),
            "labels": {
                **resource.label_selector.match_labels,
                labels.NODE_POOL: NODE_POOL,
                **reservation(workspace.key),
            },
            "annotations": {**_identity(workspace, attempt), labels.DO_NOT_DISRUPT: "true"},
        },
        "spec": {
            "expireAfter": "Never",
            "nodeClassRef": {"group": node_class.group, "kind": node_class.kind, "name": node_class.name},
            "requirements": [
                {"key": labels.NODE_POOL, "operator": "In", "values": [NODE_POOL]},
                {"key": labels.INSTANCE_TYPE, "operator": "In", "values": [size.name]},
                {"key": labels.OS, "operator": "In", "values": ["linux"]},
                {"key": labels.ARCH, "operator": "In", "values": ["amd64"]},
                {"key": labels.CAPACITY_TYPE, "operator": "In", "values": ["on-demand"]},
            ],
            **_taints(size),
        },
    }


def _identity(workspace: Workspace, attempt: Attempt) -> dict[str, str]:
    """Who paid, for which place, and the how manyth time."""
    return {
        labels.WORKSPACE_UID: workspace.uid,
        labels.SLOT: str(attempt.slot),
        labels.ATTEMPT: str(attempt.number),
    }


def _taints(size: InstanceType) -> dict[str, list[dict[str, str]]]:
    return {"taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]} if size.gpus else {}
