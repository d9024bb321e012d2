"""What every pod of a Workspace has: the restricted Pod Security profile, and its place on the nodes held for it."""

from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.spec import LabelSelector, Operator, Preset
from kaito_operator.api.workspace import Workspace
from kaito_operator.workspace.nodes import TOLERATED, reservation
from presets.catalog import Model

NOBODY = 65532
"""The user of distroless images; any that is not root will do."""
SHARED_MEMORY, SCRATCH = "/dev/shm", "/tmp"  # noqa: S108 - mounts of the pod's own


def pod_security() -> dict[str, Any]:
    """As the restricted Pod Security profile asks of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": NOBODY,
        "runAsGroup": NOBODY,
        "fsGroup": NOBODY,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """As the restricted Pod Security profile asks of a container, and a root file system that nobody writes."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def baseline_pod_security() -> dict[str, Any]:
    """As the baseline Pod Security profile asks of a pod, for images that run as root."""
    return {"seccompProfile": {"type": "RuntimeDefault"}}


def baseline_container_security() -> dict[str, Any]:
    """All that the restricted profile asks of a container but the user."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def volumes() -> list[dict[str, Any]]:
    """Where a pod may write."""
    return [{"name": "dshm", "emptyDir": {"medium": "Memory"}}, {"name": "tmp", "emptyDir": {}}]


def volume_mounts() -> list[dict[str, Any]]:
    """Where a container finds them. torch's workers share memory, and 64 MiB, the runtime's default, is not enough."""
    return [{"name": "dshm", "mountPath": SHARED_MEMORY}, scratch_mount()]


def scratch_mount() -> dict[str, Any]:
    """Where a container that only writes temporary files finds them."""
    return {"name": "tmp", "mountPath": SCRATCH}


def environment() -> list[dict[str, str]]:
    """A home that can be written, and a name: libraries ask for both, and the user id is in no password file."""
    return [{"name": "HOME", "value": SCRATCH}, {"name": "LOGNAME", "value": "kaito"}]


def pull_secrets(preset: Preset, *more: str) -> list[dict[str, str]]:
    """The Secrets of the namespace that the preset's image, and others, are pulled with; each once."""
    options = preset.preset_options
    return [{"name": name} for name in dict.fromkeys((*(options.image_pull_secrets if options else ()), *more))]


def resources(model: Model, *, gpus: int) -> dict[str, Any]:
    """All GPUs of the node; without any, the memory that the model needs."""
    if not gpus:
        return {"requests": {"memory": f"{model.total_memory_gib}Gi"}}
    wanted = {labels.GPU_RESOURCE: str(gpus)}
    return {"requests": wanted, "limits": wanted}


def tolerations() -> list[dict[str, str]]:
    """Of the taints that GPU nodes have."""
    return [
        {"key": key, "effect": "NoSchedule", **({"operator": "Exists"} if value is None else _equal(value))}
        for key, value in TOLERATED
    ]


def _equal(value: str) -> dict[str, str]:
    return {"operator": "Equal", "value": value}


def affinity(workspace: Workspace, selector: LabelSelector, *, apart: dict[str, str]) -> dict[str, Any]:
    """Only the nodes held for the Workspace, and one pod of ``apart``'s labels on each."""
    held = {**reservation(workspace.key), **selector.match_labels}
    expressions = [
        *({"key": key, "operator": Operator.IN.value, "values": [value]} for key, value in sorted(held.items())),
        *(
            {"key": e.key, "operator": e.operator.value, **({"values": list(e.values)} if e.values else {})}
            for e in selector.match_expressions
        ),
    ]
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": labels.HOSTNAME, "labelSelector": {"matchLabels": apart}}
            ]
        },
    }
