"""The Machines a Workspace asks for: what is missing at once, and never more than it wants nodes."""

from hashlib import sha256

from kaito_operator.api import labels
from kaito_operator.api.kinds import MACHINE
from kaito_operator.api.spec import Resource
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Apply, Delete, Manifest, Ref
from kaito_operator.workspace.nodes import reservation
from kaito_operator.workspace.seen import Machine
from presets.catalog import InstanceType

PROVISIONER = "default"
FIRST_ATTEMPT = 1


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


def buying(
    workspace: Workspace,
    resource: Resource,
    seen: tuple[Machine, ...],
    *,
    number: int,
    size: InstanceType,
    disk_gib: int,
) -> tuple[Apply, ...]:
    """Asks for so many Machines, in slots that none has; one that is on its way out has its slot until it is gone."""
    taken = {machine.name for machine in seen}
    named = {slot: machine_name(workspace.uid, slot=slot, attempt=FIRST_ATTEMPT) for slot in range(resource.count)}
    free = [slot for slot, name in named.items() if name not in taken][:number]
    return tuple(
        Apply(_machine(workspace, resource, slot=slot, attempt=FIRST_ATTEMPT, size=size, disk_gib=disk_gib), buys=True)
        for slot in free
    )


def giving_up(machines: tuple[Machine, ...]) -> tuple[Delete, ...]:
    """Deletes those that are not being deleted yet."""
    return tuple(
        Delete(Ref(MACHINE.api_version, MACHINE.kind, machine.name), machine.uid, gives_up=True)
        for machine in machines
        if not machine.deleting
    )


def _machine(
    workspace: Workspace, resource: Resource, *, slot: int, attempt: int, size: InstanceType, disk_gib: int
) -> Manifest:
    """As KAITO 0.3 writes it; the annotations are ours."""
    name = machine_name(workspace.uid, slot=slot, attempt=attempt)
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
            "annotations": {
                labels.WORKSPACE_UID: workspace.uid,
                labels.SLOT: str(slot),
                labels.ATTEMPT: str(attempt),
            },
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
            **({"taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]} if size.gpus else {}),
        },
    }
