"""Machine → agent pool: the mapping of gpu-provisioner, with its bugs put right."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import moment, timestamp
from kaito_operator.api.kinds import NODECLAIM
from kaito_operator.api.machine import Machine
from kaito_operator.api.machine import Requirement as MachineRequirement
from kaito_operator.api.machine import Spec as MachineSpec
from kaito_operator.api.nodeclaim import NodeClaim
from kaito_operator.api.nodeclaim import Requirement as ClaimRequirement
from kaito_operator.api.nodeclaim import Spec as ClaimSpec
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
CARRIED = (labels.MACHINE_TYPE, labels.PROVISIONER_NAME, labels.NODE_POOL, labels.CAPACITY_TYPE)
"""Requirements that become labels of the node."""
ON_DEMAND = "on-demand"
SMALLEST_DISK_GB, LARGEST_DISK_GB = 30, 2048


Requirements = MachineRequirement | ClaimRequirement


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
    spec = _spec(machine)
    size = _vm_size(machine)
    disk = disk_gb(spec.resources.requests.get("storage", "0"))
    return {
        "properties": {
            "count": 1,
            "vmSize": size,
            "type": "VirtualMachineScaleSets",
            "mode": "User",
            "osType": "Linux",
            "osSKU": _os_sku(machine),
            "nodeLabels": _labels(machine, spec.requirements, size=size),
            "nodeTaints": [f"{taint.key}={taint.value}:{taint.effect}" for taint in spec.taints],
            "tags": {**owner_tags(machine, cluster=cluster), ASKED_TAG: timestamp(now)},
            **({"osDiskSizeGB": disk} if disk else {}),
            **_spot(machine),
            **_zones(machine),
        }
    }


def _spec(machine: Manifest) -> MachineSpec | ClaimSpec:
    if machine["kind"] == NODECLAIM.kind:
        return NodeClaim.model_validate(machine).spec
    return Machine.model_validate(machine).spec


def _os_sku(machine: Manifest) -> str:
    """Whatever else is asked for is Ubuntu, as with gpu-provisioner."""
    family = (machine["metadata"].get("annotations") or {}).get(labels.IMAGE_FAMILY, "")
    return "AzureLinux" if family.lower() == "azurelinux" else "Ubuntu"


def capacity_type(machine: Manifest) -> str:
    """``spot`` if that is all that will do, ``on-demand`` if that is named, else nothing."""
    asked = _values(machine, labels.CAPACITY_TYPE)
    return "spot" if asked == ["spot"] else "on-demand" if ON_DEMAND in asked else ""


def _spot(machine: Manifest) -> dict[str, Any]:
    """Spot is asked for by naming nothing else: it may be taken away at any time."""
    if capacity_type(machine) != "spot":
        return {}
    price = (machine["metadata"].get("annotations") or {}).get(labels.SPOT_PRICE, "-1")
    if not re.fullmatch(r"-1|\d+(\.\d{1,5})?", price):
        raise NotMappable(f"annotation {labels.SPOT_PRICE} is {price!r}; write dollars an hour such as 0.75, or -1")
    return {"scaleSetPriority": "Spot", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": float(price)}


def _zones(machine: Manifest) -> dict[str, Any]:
    """None unless asked for: where a GPU cannot be had in one zone, it often can in the region (kaito #1951)."""
    zones = sorted({zone.rpartition("-")[2] for zone in _values(machine, labels.ZONE)})
    return {"availabilityZones": zones} if zones else {}


def _values(machine: Manifest, key: str) -> list[str]:
    """What a requirement allows; read from the object as it is, for every pass asks."""
    asked = (machine.get("spec") or {}).get("requirements") or ()
    named = (each for each in asked if each["key"] == key and each["operator"] == "In")
    return [value for each in named for value in each.get("values") or ()]


def instance_type(machine: Manifest) -> str:
    """The size asked for; empty if it asks for none or several."""
    try:
        return _vm_size(machine)
    except NotMappable:
        return ""


def _vm_size(machine: Manifest) -> str:
    sizes = _values(machine, labels.INSTANCE_TYPE)
    if len(sizes) != 1:
        raise NotMappable(f"exactly one {labels.INSTANCE_TYPE} is needed, found {', '.join(sizes) or 'none'}")
    return str(sizes[0])


def _labels(machine: Manifest, requirements: Sequence[Requirements], *, size: str) -> dict[str, str]:
    """All labels of the Machine but those that AKS keeps to itself, its kind, and when it was asked for."""
    meta = machine["metadata"]
    single = {r.key: r.values[0] for r in requirements if r.operator == "In" and len(r.values) == 1}
    created: datetime = moment(meta["creationTimestamp"])
    wanted: Mapping[str, str] = {
        labels.MACHINE_TYPE: "gpu" if "Standard_N" in size else "cpu",
        **{k: v for k, v in single.items() if k in CARRIED},
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
