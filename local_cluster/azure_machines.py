"""The virtual machine that an agent pool becomes, with the name, labels and taints that AKS gives it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from local_cluster.kubelet import Taint
from presets.catalog import load_catalog


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """One machine as it joins the cluster."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    provider_id: str
    gpus: int


class VirtualMachines(Protocol):
    """What turns machines on and off."""

    async def start(self, machine: VirtualMachine) -> None:
        """Boots it; it joins the cluster by itself."""

    async def stop(self, name: str) -> None:
        """Takes it away, its Node too."""


@dataclass(slots=True)
class RecordOnly:
    """Machines that are only written down."""

    running: dict[str, VirtualMachine] = field(default_factory=dict)

    async def start(self, machine: VirtualMachine) -> None:
        """Writes it down."""
        self.running[machine.name] = machine

    async def stop(self, name: str) -> None:
        """Strikes it out."""
        self.running.pop(name, None)


def virtual_machine(pool: str, body: Mapping[str, Any], *, node_resource_group: str, index: int = 0) -> VirtualMachine:
    """The machine of a pool that has this number."""
    properties = body["properties"]
    # AKS puts eight digits, the same for all scale sets of a cluster, between the pool's name and "vmss".
    digits = str(int(sha256(body["id"].rpartition("/agentPools/")[0].encode()).hexdigest(), 16))[:8]
    scale_set = f"aks-{pool}-{digits}-vmss"
    subscription = body["id"].split("/")[2]
    size = load_catalog().instance_type(properties["vmSize"])
    return VirtualMachine(
        name=f"{scale_set}{_base36(index):0>6}",
        labels={
            "agentpool": pool,
            "kubernetes.azure.com/agentpool": pool,
            "kubernetes.azure.com/mode": properties["mode"].lower(),
            "node.kubernetes.io/instance-type": properties["vmSize"],
            "topology.kubernetes.io/region": "local",
            "topology.kubernetes.io/zone": "0",
            **(properties.get("nodeLabels") or {}),
        },
        taints=tuple(_taint(text) for text in properties.get("nodeTaints") or ()),
        provider_id=f"azure:///subscriptions/{subscription}/resourceGroups/{node_resource_group.lower()}/providers"
        f"/Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/{index}",
        gpus=size.gpus if size else 0,
    )


def _taint(text: str) -> Taint:
    """``key=value:Effect``, as AKS writes it."""
    rest, _, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    return Taint(key, value, effect)


def _base36(number: int) -> str:
    """As Azure numbers the machines of a scale set: 0 to 9, then a to z."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return digits[number] if number < 36 else _base36(number // 36) + digits[number % 36]
