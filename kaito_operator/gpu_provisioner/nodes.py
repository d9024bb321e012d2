"""The node of a Machine: what makes it ours, what holds it, and what still keeps it from being initialized."""

from collections.abc import Iterable

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type
from kaito_operator.plan import Apply, Delete, Manifest, Patch, Ref, Release, Subject

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
    if left := sorted(_identities(node["spec"].get("taints")) & _identities(spec.get("startupTaints"))):
        return "StartupTaintsExist", f"taint {':'.join(left[0])} is still on the node"
    if ephemeral := sorted(taints & set(EPHEMERAL_TAINTS)):
        return "KnownEphemeralTaintsExist", f"taint {ephemeral[0]} is still on the node"
    requests = (spec.get("resources") or {}).get("requests") or {}
    allocatable = status.get("allocatable") or {}
    lacking = sorted(r for r in requests if r != NEVER_ADVERTISED and allocatable.get(r, "0") == "0" != requests[r])
    if lacking:
        return "ResourceNotRegistered", f"the node does not advertise {lacking[0]} yet"
    return None


def startup_tainting(node: Manifest, machine: Manifest, subject: Subject) -> tuple[Patch, ...]:
    """Puts a Machine's startup taints onto its node, once: in the write that registers and claims it, as Karpenter
    does, so that what somebody takes off is never put on again, and no node is registered that is nobody's.

    The agent pool cannot bring them: AKS takes ``nodeInitializationTaints`` with a whole cluster only, and the API
    server refuses to let anybody take ``nodeTaints`` off a node.
    """
    meta, wanted = node["metadata"], (machine.get("spec") or {}).get("startupTaints") or ()
    there = node["spec"].get("taints") or []
    new = [taint for taint in wanted if _identity(taint) not in _identities(there)]
    if not new or is_registered(node):
        return ()
    claim = _claim(node, subject, initialized=False)["metadata"]
    owners = [owner for owner in meta.get("ownerReferences") or () if owner["uid"] != subject.uid]
    finalizers = [*(meta.get("finalizers") or ()), *claim.get("finalizers", ())]
    values: dict[str, object] = {
        "/spec/taints": [*there, *new],
        "/metadata/ownerReferences": [*owners, *claim["ownerReferences"]],
        "/metadata/finalizers": list(dict.fromkeys(finalizers)),
        f"/metadata/labels/{labels.REGISTERED.replace('/', '~1')}": "true",
    }
    operations = tuple({"op": "add", "path": path, "value": value} for path, value in values.items())
    return (Patch(Ref.of(node), meta["resourceVersion"], operations),)


def _identity(taint: Manifest) -> tuple[str, str]:
    """A node has one taint of a key and effect."""
    return taint["key"], taint.get("effect", "")


def _identities(taints: Iterable[Manifest] | None) -> set[tuple[str, str]]:
    return {_identity(taint) for taint in taints or ()}


def is_claimed(node: Manifest, by: Subject) -> bool:
    """Whether it bears our owner reference: only then may we empty it."""
    return any(owner["uid"] == by.uid for owner in node["metadata"].get("ownerReferences") or ())


def is_registered(node: Manifest) -> bool:
    """Whether it bears the label that we put on a node that has joined."""
    return (node["metadata"].get("labels") or {}).get(labels.REGISTERED) == "true"


def bears_our_mark(node: Manifest, by: Subject) -> bool:
    """Whether a node of the Machine's pool was registered for it: by the label, or by the owner reference where
    somebody took the label off. The label can be asked for live, so whatever that question finds is found here."""
    return is_registered(node) or is_claimed(node, by)


def is_leaving(node: Manifest) -> bool:
    """Whether somebody has deleted it."""
    return "deletionTimestamp" in node["metadata"]


def is_held(node: Manifest) -> bool:
    """Whether it bears the finalizer, so that it stays until its machine is gone."""
    return labels.TERMINATION_FINALIZER in (node["metadata"].get("finalizers") or ())


def is_held_by_others(node: Manifest) -> bool:
    """Whether it stays although we let go of it."""
    return any(each != labels.TERMINATION_FINALIZER for each in node["metadata"].get("finalizers") or ())


def releasing(nodes: Iterable[Manifest]) -> tuple[Release, ...]:
    """Lets go of those that are deleted and wait for us alone, or for us too."""
    return tuple(Release(Ref.of(n), n["metadata"]["uid"]) for n in nodes if is_leaving(n) and is_held(n))


def deleting(nodes: Iterable[Manifest]) -> tuple[Delete, ...]:
    """Deletes those that nobody has deleted yet."""
    return tuple(Delete(Ref.of(node), node["metadata"]["uid"]) for node in nodes if not is_leaving(node))


def cordoning(node: Manifest, subject: Subject) -> tuple[Apply, ...]:
    """Nothing new is scheduled on it, and load balancers leave it; nothing if that is so already.

    An apply takes away what it does not send, so it says again what ``claiming`` said.
    """
    own = node["metadata"].get("labels") or {}
    if node["spec"].get("unschedulable") and labels.NO_LOAD_BALANCER in own:
        return ()
    claim = _claim(node, subject, initialized=own.get(labels.INITIALIZED) == "true")
    meta = {**claim["metadata"], "labels": {**claim["metadata"]["labels"], labels.NO_LOAD_BALANCER: "karpenter"}}
    cordoned = {**claim, "metadata": meta, "spec": {"unschedulable": True}}
    return (Apply(cordoned, uid=node["metadata"]["uid"]),)


def claiming(node: Manifest, subject: Subject, *, initialized: bool) -> tuple[Apply, ...]:
    """Karpenter's labels, an owner reference, so that people see whose node it is, and its finalizer, so that whoever
    deletes the node deletes the machine; nothing if they are there."""
    claim = _claim(node, subject, initialized=initialized)
    wanted, own = claim["metadata"]["labels"], node["metadata"].get("labels") or {}
    if wanted.items() <= own.items() and is_claimed(node, subject) and (is_held(node) or is_leaving(node)):
        return ()
    return (Apply(claim, uid=node["metadata"]["uid"]),)


def _claim(node: Manifest, subject: Subject, *, initialized: bool) -> Manifest:
    owner = {
        "apiVersion": subject.ref.api_version,
        "kind": subject.ref.kind,
        "name": subject.ref.name,
        "uid": subject.uid,
        "blockOwnerDeletion": True,
    }
    wanted = {labels.REGISTERED: "true", **({labels.INITIALIZED: "true"} if initialized else {})}
    held = is_held(node) or not is_leaving(node)  # what is being deleted takes no new finalizer
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node["metadata"]["name"],
            "labels": wanted,
            "ownerReferences": [owner],
            **({"finalizers": [labels.TERMINATION_FINALIZER]} if held else {}),
        },
    }
