"""Machine → agent pool: the mapping of gpu-provisioner, with its bugs put right."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import moment, timestamp
from kaito_operator.api.machine import Machine
from kaito_operator.plan import Manifest

NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
RESERVED = (
    "kubernetes.azure.com/",
    "kubernetes.io/",
    "node.kubernetes.io/",
    "topology.kubernetes.io/",
    "beta.kubernetes.io/",
)
"""AKS refuses node labels under these, or sets them itself."""
CLUSTER_TAG, WORKSPACE_TAG, MACHINE_TAG = "kaito.sh_cluster", "kaito.sh_workspace-uid", "kaito.sh_machine-uid"
ASKED_TAG = "kaito.sh_asked-at"
"""When the pool was asked for: Azure does not say, and a restarted provisioner has to know how long it has been."""
SMALLEST_DISK_GB, LARGEST_DISK_GB = 30, 2048


class NotMappable(Exception):
    """The Machine asks for something that no agent pool is; the message says what to change."""


def owner_tags(machine: Manifest, *, cluster: str) -> dict[str, str]:
    """The three tags without which a pool is never touched."""
    meta = machine["metadata"]
    workspace = (meta.get("annotations") or {}).get(labels.WORKSPACE_UID, "")
    return {CLUSTER_TAG: cluster, WORKSPACE_TAG: workspace, MACHINE_TAG: meta["uid"]}


def agent_pool(machine: Manifest, *, cluster: str, now: datetime) -> dict[str, Any]:
    """The body of the PUT, as REST has it. Raises NotMappable."""
    if not NAME.fullmatch(machine["metadata"]["name"]):
        raise NotMappable("a pool's name has at most 12 of a-z and 0-9 and begins with a letter; rename the Machine")
    spec = Machine.model_validate(machine).spec
    size = _vm_size(spec.requirements)
    disk = disk_gb(spec.resources.requests.get("storage", "0"))
    return {
        "properties": {
            "count": 1,
            "vmSize": size,
            "type": "VirtualMachineScaleSets",
            "mode": "User",
            "osType": "Linux",
            "osSKU": "Ubuntu",
            "nodeLabels": _labels(machine, spec.requirements),
            "nodeTaints": [f"{taint.key}={taint.value}:{taint.effect}" for taint in spec.taints],
            "tags": {**owner_tags(machine, cluster=cluster), ASKED_TAG: timestamp(now)},
            **({"osDiskSizeGB": disk} if disk else {}),
        }
    }


def instance_type(machine: Manifest) -> str:
    """The size asked for; empty if it asks for none or several."""
    try:
        return _vm_size(Machine.model_validate(machine).spec.requirements)
    except NotMappable:
        return ""


def _vm_size(requirements: list[Any]) -> str:
    sizes = [v for r in requirements if r.key == labels.INSTANCE_TYPE and r.operator == "In" for v in r.values]
    if len(sizes) != 1:
        raise NotMappable(f"exactly one {labels.INSTANCE_TYPE} is needed, found {', '.join(sizes) or 'none'}")
    return str(sizes[0])


def _labels(machine: Manifest, requirements: list[Any]) -> dict[str, str]:
    """All labels of the Machine but those that AKS keeps to itself, its kind, and when it was asked for."""
    meta = machine["metadata"]
    single = {r.key: r.values[0] for r in requirements if r.operator == "In" and len(r.values) == 1}
    created: datetime = moment(meta["creationTimestamp"])
    wanted: Mapping[str, str] = {
        **{k: v for k, v in single.items() if k in (labels.MACHINE_TYPE, labels.PROVISIONER_NAME)},
        **(meta.get("labels") or {}),
        "kaito.sh/creation-timestamp": created.strftime("%Y-%m-%dT%H-%M-%SZ"),
    }
    return {key: value for key, value in sorted(wanted.items()) if not key.startswith(RESERVED)}


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def disk_gb(storage: str) -> int:
    """osDiskSizeGB for a storage request; 0 leaves the size to AKS.

    A bare small number is meant as GB: KAITO's falcon-40b asks for "400".
    """
    found = re.fullmatch(rf"(\d+(?:\.\d+)?)({'|'.join(_UNITS)})", storage)
    if found is None:
        raise NotMappable(f"resources.requests.storage is {storage!r}; write a size such as 100Gi")
    number, unit = float(found[1]), found[2]
    amount = number * _UNITS[unit]
    if amount == 0:
        return 0
    gb = math.ceil(number) if not unit and amount < 2**20 else math.ceil(amount / 2**30)
    return min(max(gb, SMALLEST_DISK_GB), LARGEST_DISK_GB)
