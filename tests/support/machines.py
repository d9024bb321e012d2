"""Builders of Machines and their nodes, as the API server has them."""

from collections.abc import Sequence
from typing import Any


def a_machine(
    *,
    name: str = "ws0123456789",
    uid: str = "machine-uid",
    sizes: Sequence[str] = ("Standard_NC12s_v3",),
    storage: str = "50Gi",
    labels: dict[str, str] | None = None,
    finalizer: bool = False,
    deleting: bool = False,
    status: dict[str, Any] | None = None,
    version: int = 1,
) -> dict[str, Any]:
    """A Machine as the Workspace operator asks for one."""
    return {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {
            "name": name,
            "uid": uid,
            "generation": 1,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {
                "app": "falcon",
                "karpenter.sh/provisioner-name": "default",
                "kaito.sh/workspace": "w",
                "kaito.sh/workspacenamespace": "ns",
                **(labels or {}),
            },
            "annotations": {"kaito.sh/workspace-uid": "workspace-uid"},
            **({"finalizers": ["karpenter.sh/termination"]} if finalizer else {}),
            **({"deletionTimestamp": "2026-01-02T04:00:00Z"} if deleting else {}),
        },
        "spec": {
            "machineTemplateRef": {"name": name},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": list(sizes)},
                {"key": "karpenter.sh/provisioner-name", "operator": "In", "values": ["default"]},
                {"key": "kaito.sh/machine-type", "operator": "In", "values": ["gpu"]},
                {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
                {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
            ],
            "resources": {"requests": {"storage": storage}},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
        },
        **({"status": status} if status else {}),
    }


def a_claim(
    *,
    name: str = "ws0123456789",
    labels: dict[str, str] | None = None,
    node_class: tuple[str, str] = ("kaito.sh", "KaitoNodeClass"),
    annotations: dict[str, str] | None = None,
    requirements: Sequence[dict[str, Any]] = (),
    **others: Any,
) -> dict[str, Any]:
    """A NodeClaim as KAITO asks for one since it left Machines."""
    machine = a_machine(name=name, **others)
    group, kind = node_class
    ours = {"karpenter.sh/nodepool": "kaito", "kaito.sh/workspace": "w", "kaito.sh/workspacenamespace": "ns"}
    asked = [
        {"key": "karpenter.sh/nodepool", "operator": "In", "values": ["kaito"]},
        {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC12s_v3"]},
        {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
        *requirements,
    ]
    meta = machine["metadata"]
    return {
        **machine,
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            **meta,
            "labels": ours if labels is None else labels,
            "annotations": {**meta["annotations"], "karpenter.sh/do-not-disrupt": "true", **(annotations or {})},
        },
        "spec": {
            "nodeClassRef": {"group": group, "kind": kind, "name": "default"},
            "requirements": asked,
            "resources": machine["spec"]["resources"],
            "taints": machine["spec"]["taints"],
            "expireAfter": "Never",
        },
    }


def a_node(
    *,
    pool: str = "ws0123456789",
    number: int = 0,
    ready: bool = True,
    taints: Sequence[str] = (),
    owner: str = "",
    labels: dict[str, str] | None = None,
    gpus: int = 0,
    held: bool | None = None,
    deleting: bool = False,
) -> dict[str, Any]:
    """A Node as AKS makes one for a pool. ``held``: by our finalizer; without a word it is if it has an owner."""
    name = f"aks-{pool}-12345678-vmss00000{number}"
    devices = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": "node-uid",
            "resourceVersion": "1",
            "labels": {"kubernetes.azure.com/agentpool": pool, "agentpool": pool, **(labels or {})},
            **({"ownerReferences": [{"uid": owner}]} if owner else {}),
            **({"finalizers": ["karpenter.sh/termination"]} if (bool(owner) if held is None else held) else {}),
            **({"deletionTimestamp": "2026-01-02T11:00:00Z"} if deleting else {}),
        },
        "spec": {
            "providerID": f"azure:///subscriptions/s/resourceGroups/mc/providers/Microsoft.Compute"
            f"/virtualMachineScaleSets/aks-{pool}-12345678-vmss/virtualMachines/{number}",
            "taints": [{"key": key, "effect": "NoSchedule"} for key in taints],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "capacity": {"cpu": "12", **devices},
            "allocatable": {"cpu": "11", **devices},
        },
    }
