"""A Workspace and everything behind it as one tree, and what it waits for as one line. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kaito_cli import parts
from kaito_cli.ages import age
from kaito_cli.parts import Item, State
from kaito_operator.api.conditions import by_type
from kaito_operator.api.reasons import Reason
from kaito_operator.plan import Manifest

TRUNK = (
    "MachineReady",
    "NodeClaimReady",
    "ResourceReady",
    "JobStarted",
    "TuningSucceeded",
    "InferenceReady",
    "WorkspaceReady",
)
"""The order in which the conditions come true. ``Ready`` says the same as WorkspaceReady, for other tools."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found of a Workspace and its objects."""

    workspace: Manifest
    machines: tuple[Manifest, ...] = ()
    nodes: tuple[Manifest, ...] = ()
    workloads: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()
    service: Manifest | None = None
    jobs: tuple[Manifest, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """What a user is told. ``waits_for`` is the leaf reason, "" when ready; ``endpoint`` is "" until there is one; and
    ``result`` says where that of a tuning is."""

    namespace: str
    name: str
    ready: bool
    reason: str
    waits_for: str
    since: str
    endpoint: str
    result: str
    tree: Item

    def headline(self, *, now: datetime) -> str:
        """The first line: ready and where, or what it waits for."""
        who, ago = f"{self.namespace}/{self.name}", age(self.since, now=now)
        if self.ready:
            return f"{who} is ready: {self.endpoint or self.result} ({ago})"
        return f"{who} is not ready: {self.waits_for} ({', '.join(x for x in (self.reason, ago) if x)})"


def overview(seen: Seen) -> Overview:
    """The tree and the line."""
    workspace = seen.workspace
    meta = workspace["metadata"]
    conditions = by_type(workspace.get("status", {}).get("conditions", []))
    summary = _summary(workspace, conditions)
    ready = summary is None
    endpoint = _endpoint(seen)
    said = summary or _standing(conditions["WorkspaceReady"])
    return Overview(
        namespace=meta["namespace"],
        name=meta["name"],
        ready=ready,
        reason=said.reason,
        waits_for="" if ready else said.message or said.reason,
        since=said.since,
        endpoint=endpoint,
        result=str(conditions.get("TuningSucceeded", {}).get("message", "")) if ready else "",
        tree=Item(
            f"Workspace {meta['namespace']}/{meta['name']}",
            State.DONE if ready else said.state,
            parts=_trunk(seen, conditions, endpoint=endpoint, ready=ready),
        ),
    )


def _summary(workspace: Manifest, conditions: Mapping[str, Mapping[str, Any]]) -> Item | None:
    """Why the Workspace is not ready, in the operator's own words where it had any; None if it is."""
    meta = workspace["metadata"]
    whole = conditions.get("WorkspaceReady")
    if "deletionTimestamp" in meta:
        told = conditions.get("WorkspaceDeleting", {}).get("message") or "it is being deleted"
        return Item("", State.WAITING, "Deleting", told, meta["deletionTimestamp"])
    if whole is None:
        told = "the workspace operator has not looked at it yet"
        return Item("", State.WAITING, "", told, meta["creationTimestamp"])
    if whole.get("observedGeneration", meta.get("generation")) != meta.get("generation"):
        told = "the workspace operator has not looked at the last change yet"
        return Item("", State.WAITING, "", told, whole.get("lastTransitionTime", ""))
    return None if whole["status"] == "True" else _standing(whole)


def _trunk(seen: Seen, conditions: Mapping[str, Mapping[str, Any]], *, endpoint: str, ready: bool) -> tuple[Item, ...]:
    """The conditions in order, each with the objects that explain it; objects without a condition stand alone."""
    nodes = {n["metadata"]["name"]: n for n in seen.nodes}
    machines = tuple(parts.machine(m, nodes=nodes) for m in seen.machines)
    behind = {m.get("status", {}).get("nodeName") for m in seen.machines}
    own_nodes = tuple(parts.node(n) for name, n in nodes.items() if name not in behind)
    workloads = tuple(parts.workload(w, pods=_pods_of(w, seen)) for w in seen.workloads)
    jobs = tuple(parts.job(j, pods=_pods_of(j, seen)) for j in seen.jobs)
    where = (Item(f"Endpoint {endpoint}", State.DONE if ready else State.WAITING),) if endpoint else ()
    bought = "NodeClaimReady" if "NodeClaimReady" in conditions else "MachineReady"
    below = {
        bought: machines,
        "ResourceReady": own_nodes,
        "JobStarted": jobs,
        "InferenceReady": workloads,
        "WorkspaceReady": where,
    }
    known = [name for name in TRUNK if name in conditions or below.get(name)]
    others = sorted(name for name in conditions if name not in TRUNK and name != "Ready")
    items: list[Item] = []
    for name in [*known, *others]:
        leaves = below.get(name, ())
        items += [_explained(_standing(conditions[name]), leaves)] if name in conditions else leaves
    return tuple(items)


def _standing(condition: Mapping[str, Any]) -> Item:
    """A condition of the Workspace. The operator says Unknown of what goes on by itself, and False of what is wrong; of
    the whole alone it says False as long as it is not ready."""
    wrong = condition["status"] == "False" and condition.get("reason") != Reason.WORKSPACE_PENDING
    item = parts.condition(condition)
    return replace(item, state=State.FAILED) if wrong else item


def _explained(condition: Item, leaves: tuple[Item, ...]) -> Item:
    """A condition over its objects; what has failed below has failed above."""
    failed = condition.state is not State.DONE and any(leaf.state is State.FAILED for leaf in leaves)
    return replace(condition, state=State.FAILED if failed else condition.state, parts=leaves)


def _pods_of(workload: Manifest, seen: Seen) -> list[Manifest]:
    wanted = workload["spec"].get("selector", {}).get("matchLabels", {}).items()
    return [p for p in seen.pods if wanted <= p["metadata"].get("labels", {}).items()]


def _endpoint(seen: Seen) -> str:
    """Where the model answers: what the operator says, else the address of the Service."""
    said: str = seen.workspace.get("status", {}).get("endpoint", "")
    address = (seen.service or {}).get("spec", {}).get("clusterIP", "None")
    return said or ("" if address in {"", "None"} else f"http://{address}")
