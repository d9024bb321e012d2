"""The node of a Machine: what makes it ours, and what still keeps it from being initialized."""

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type
from kaito_operator.plan import Apply, Manifest, Subject

EPHEMERAL_TAINTS = (
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.cloudprovider.kubernetes.io/uninitialized",
)
"""Taints that Kubernetes itself takes off once the node works (Karpenter's KnownEphemeralTaints)."""
NEVER_ADVERTISED = "storage"
"""Requested of every Machine, and listed by no node."""


def not_initialized(node: Manifest, machine: Manifest) -> tuple[str, str] | None:
    """Karpenter's reason and a message; None once the node is ready, clean, and has what was asked for."""
    status, spec = node.get("status") or {}, machine.get("spec") or {}
    if by_type(status.get("conditions") or ()).get("Ready", {}).get("status") != "True":
        return "NodeNotReady", f"node {node['metadata']['name']} is not Ready"
    taints = {taint["key"] for taint in node["spec"].get("taints") or ()}
    startup = {taint["key"] for taint in spec.get("startupTaints") or ()}
    if left := sorted(taints & startup):
        return "StartupTaintsExist", f"taint {left[0]} is still on the node"
    if ephemeral := sorted(taints & set(EPHEMERAL_TAINTS)):
        return "KnownEphemeralTaintsExist", f"taint {ephemeral[0]} is still on the node"
    requests = (spec.get("resources") or {}).get("requests") or {}
    allocatable = status.get("allocatable") or {}
    lacking = sorted(r for r in requests if r != NEVER_ADVERTISED and allocatable.get(r, "0") == "0" != requests[r])
    if lacking:
        return "ResourceNotRegistered", f"the node does not advertise {lacking[0]} yet"
    return None


def claiming(node: Manifest, subject: Subject, *, initialized: bool) -> tuple[Apply, ...]:
    """Karpenter's labels and an owner reference, so that people see whose node it is; nothing if they are there."""
    meta = node["metadata"]
    wanted = {labels.REGISTERED: "true", **({labels.INITIALIZED: "true"} if initialized else {})}
    owners = [owner["uid"] for owner in meta.get("ownerReferences") or ()]
    if wanted.items() <= (meta.get("labels") or {}).items() and subject.uid in owners:
        return ()
    owner = {
        "apiVersion": subject.ref.api_version,
        "kind": subject.ref.kind,
        "name": subject.ref.name,
        "uid": subject.uid,
        "blockOwnerDeletion": True,
    }
    claim = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": meta["name"], "labels": wanted, "ownerReferences": [owner]},
    }
    return (Apply(claim, uid=meta["uid"]),)
