"""What the namespaced objects of a Workspace have in common: name, labels, owner; and how drift of them is seen."""

from hashlib import sha256
from json import dumps
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.amounts import amount
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Apply, Manifest

APPLIED = "kaito.sh/applied"
"""Annotation on what we apply: a hash of it, so that what is no longer wanted in it is seen to be there still."""
PART_OF = "kaito"
PROGRAMS = {"inference": "inference-server", "tuning": "tuning-runner"}
"""What runs in the pods of each component."""
BY_KEY = {
    "containers": "name",
    "env": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists to which others may add items of their own (a sidecar, say), and what tells their items apart."""
AMOUNTS = ("limits", "requests")
"""What the API server writes anew in one form."""
DROPPED: tuple[Any, ...] = ("", [], None)
"""What the API server does not keep: a field that is not there says the same."""


def selector(workspace: Workspace, *, component: str) -> dict[str, str]:
    """The labels by which the pods of one workload are found."""
    return {labels.WORKSPACE: workspace.key.name, labels.APP_COMPONENT: component}


def standard_labels(workspace: Workspace, *, component: str) -> dict[str, str]:
    """The labels of everything that goes with a Workspace."""
    return {
        **selector(workspace, component=component),
        labels.APP_NAME: PROGRAMS[component],
        labels.APP_INSTANCE: workspace.key.name,
        labels.APP_PART_OF: PART_OF,
        labels.APP_MANAGED_BY: labels.WORKSPACE_MANAGER,
    }


def metadata(workspace: Workspace, *, component: str, name: str = "") -> dict[str, Any]:
    """Name, labels and controller of an object that goes with its Workspace, and by default bears its name."""
    return {
        "name": name or workspace.key.name,
        "namespace": workspace.key.namespace,
        "labels": standard_labels(workspace, component=component),
        "ownerReferences": [
            {
                "apiVersion": workspace.ref.api_version,
                "kind": workspace.ref.kind,
                "name": workspace.key.name,
                "uid": workspace.uid,
                "controller": True,
            }
        ],
    }


def applying(wanted: Manifest, *, seen: Manifest | None) -> tuple[Apply, ...]:
    """Writes ``wanted`` if the object is not there, or no longer says all of it."""
    signed = _signed(wanted)
    if seen is None:
        return (Apply(signed),)
    if holds(seen, signed) or "deletionTimestamp" in seen["metadata"]:
        return ()
    return (Apply(signed, uid=seen["metadata"]["uid"]),)


def _signed(wanted: Manifest) -> Manifest:
    meta = wanted["metadata"]
    digest = sha256(dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    return {**wanted, "metadata": {**meta, "annotations": {**meta.get("annotations", {}), APPLIED: digest}}}


def holds(seen: Any, wanted: Any, *, field: str = "") -> bool:
    """Whether ``seen`` says everything that ``wanted`` says. What others added is theirs. Both are plain JSON."""
    if isinstance(wanted, dict) and field in AMOUNTS:
        return isinstance(seen, dict) and all(k in seen and _same(seen[k], v) for k, v in wanted.items())
    if isinstance(wanted, dict):
        return isinstance(seen, dict) and all(
            holds(seen[k], v, field=k) if k in seen else v in DROPPED for k, v in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(seen, list) and _holds_all(seen, wanted, key=BY_KEY.get(field))
    return bool(seen == wanted)


def _same(seen: Any, wanted: Any) -> bool:
    """Of two amounts of a resource: a user may write 1 for "1", or 1000m."""
    return bool(seen == wanted or (amount(wanted) is not None and amount(seen) == amount(wanted)))


def _holds_all(seen: list[Any], wanted: list[Any], *, key: str | None) -> bool:
    """Item by item where nothing tells them apart: a user's template need not name its ports."""
    if key is None or not all(key in item for item in wanted):
        return len(seen) == len(wanted) and all(map(holds, seen, wanted))
    by_key = {item.get(key): item for item in seen}
    return all(item[key] in by_key and holds(by_key[item[key]], item) for item in wanted)
