"""The Deployment that serves a preset, pinned to the nodes that were reserved for it."""

from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.workspace import Preset, Resource
from kaito_operator.plan import Manifest
from kaito_operator.workspace.images import Images
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.services import HTTP_PORT, owned_metadata, standard_labels
from presets.catalog import Model

NOBODY = 65532
WEIGHTS = "/workspace/weights"
PROBE_SECONDS = 2


def deployment(
    seen: Observed, *, resource: Resource, preset: Preset, model: Model, gpus: int, images: Images
) -> Manifest:
    """One replica a node; a rollout takes the old pod away first, for there is no spare GPU."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": owned_metadata(seen),
        "spec": {
            "replicas": resource.count,
            "selector": {"matchLabels": {labels.WORKSPACE: seen.key.name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": standard_labels(seen)},
                "spec": _pod(seen, resource=resource, preset=preset, model=model, gpus=gpus, images=images),
            },
        },
    }


def _pod(
    seen: Observed, *, resource: Resource, preset: Preset, model: Model, gpus: int, images: Images
) -> dict[str, Any]:
    options = preset.presetOptions
    secrets = options.imagePullSecrets if preset.private and options else []
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 40,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "fsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"imagePullSecrets": [{"name": name} for name in secrets]} if secrets else {}),
        "affinity": _affinity(seen, resource),
        "tolerations": [
            {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
            {"key": labels.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"},
        ],
        "containers": [_container(preset=preset, model=model, gpus=gpus, images=images)],
        "volumes": [
            {"name": "dshm", "emptyDir": {"medium": "Memory"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _container(*, preset: Preset, model: Model, gpus: int, images: Images) -> dict[str, Any]:
    image = preset.presetOptions.image if preset.private and preset.presetOptions else images.preset(model.name)
    arguments = {
        "port": str(HTTP_PORT),
        "pretrained_model_name_or_path": WEIGHTS,
        "served_model_name": model.name,
        **model.arguments,
    }
    return {
        "name": "inference",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "inference_server"],
        "args": [f"--{key}={value}" if value else f"--{key}" for key, value in sorted(arguments.items())],
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        **({"resources": {"requests": _gpus(gpus), "limits": _gpus(gpus)}} if gpus else {}),
        "startupProbe": {
            **_probe("/readyz"),
            "periodSeconds": PROBE_SECONDS,
            "failureThreshold": model.readiness_seconds // PROBE_SECONDS,
        },
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "dshm", "mountPath": "/dev/shm"},  # noqa: S108  (a mount of the pod's own)
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": HTTP_PORT, "scheme": "HTTP"}}


def _gpus(number: int) -> dict[str, str]:
    return {labels.GPU_RESOURCE: str(number)}


def _affinity(seen: Observed, resource: Resource) -> dict[str, Any]:
    """Only nodes that bear the reservation and what the labelSelector asks for."""
    required = {
        labels.WORKSPACE: seen.key.name,
        labels.WORKSPACE_NAMESPACE: seen.key.namespace,
        **resource.labelSelector.matchLabels,
    }
    expressions = [
        *({"key": key, "operator": "In", "values": [value]} for key, value in sorted(required.items())),
        *(
            {"key": r.key, "operator": r.operator, **({"values": r.values} if r.values else {})}
            for r in resource.labelSelector.matchExpressions
        ),
    ]
    terms = [{"matchExpressions": expressions}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
