"""The Machines a Workspace asks for: all that are missing at once, and never more than it wants nodes."""

from hashlib import sha256

from kaito_operator.api import labels
from kaito_operator.api.workspace import Resource
from kaito_operator.plan import Apply, Manifest
from kaito_operator.workspace.observe import MachineSeen, NodeSeen, Observed
from presets.catalog import InstanceType, Model

PROVISIONER = "default"


def machine_name(uid: str, *, slot: int, attempt: int) -> str:
    """``ws`` and nine hex digits: a function of identity that is a legal agent pool name too (12 characters)."""
    return "ws" + sha256(f"{uid}/{slot}/{attempt}".encode()).hexdigest()[:9]


def missing(
    resource: Resource, seen: Observed, *, nodes: list[NodeSeen], size: InstanceType | None, model: Model
) -> tuple[Apply, ...]:
    """The Machines still to be asked for. None for a Workspace that brings its own nodes."""
    if not resource.instanceType:
        return ()
    used = {node.name for node in nodes}
    alive = [machine for machine in seen.machines if not machine.deleting]
    pending = [machine for machine in alive if machine.node not in used]
    wanted = resource.count - len(nodes) - len(pending)
    free = (slot for slot in range(resource.count + len(seen.machines)) if slot not in {m.slot for m in alive})
    return tuple(
        Apply(
            machine(resource, seen, slot=slot, attempt=_attempt(slot, seen.machines), size=size, model=model), buys=True
        )
        for slot, _ in zip(free, range(wanted), strict=False)
    )


def _attempt(slot: int, machines: tuple[MachineSeen, ...]) -> int:
    """One more than any Machine that is on its way out of this slot."""
    return 1 + max((m.attempt for m in machines if m.slot == slot), default=0)


def machine(
    resource: Resource, seen: Observed, *, slot: int, attempt: int, size: InstanceType | None, model: Model
) -> Manifest:
    """A Karpenter Machine as KAITO 0.3 writes it."""
    name = machine_name(seen.subject.uid, slot=slot, attempt=attempt)
    gpu = size is None or size.gpus > 0
    return {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {
            "name": name,
            "labels": {
                **resource.labelSelector.matchLabels,
                labels.PROVISIONER_NAME: PROVISIONER,
                labels.WORKSPACE: seen.key.name,
                labels.WORKSPACE_NAMESPACE: seen.key.namespace,
            },
            "annotations": {
                labels.WORKSPACE_UID: seen.subject.uid,
                labels.SLOT: str(slot),
                labels.ATTEMPT: str(attempt),
            },
        },
        "spec": {
            "machineTemplateRef": {"name": name},
            "requirements": [
                {"key": labels.INSTANCE_TYPE, "operator": "In", "values": [resource.instanceType]},
                {"key": labels.PROVISIONER_NAME, "operator": "In", "values": [PROVISIONER]},
                {"key": labels.MACHINE_TYPE, "operator": "In", "values": ["gpu" if gpu else "cpu"]},
                {"key": labels.ARCH, "operator": "In", "values": ["amd64"]},
                {"key": labels.OS, "operator": "In", "values": ["linux"]},
            ],
            "resources": {"requests": {"storage": f"{model.disk_gib}Gi"}},
            **({"taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]} if gpu else {}),
        },
    }
