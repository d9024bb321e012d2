"""The Deployment that serves a preset: one replica on each node of the Workspace."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from kaito_operator.api.spec import Preset, Resource
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Manifest
from kaito_operator.workspace import adapters, children, pods
from kaito_operator.workspace.adapters import ServedAdapter
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.services import HTTP_PORT
from presets.catalog import Model

COMPONENT = "inference"
STARTUP_PERIOD = 2
"""Seconds between looks while the model loads; a short one, for the first answer waits for it."""
SLACK_SECONDS = 600
"""What a rollout may take beyond loading the model: scheduling, and pulling an image of many GiB."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A preset on its nodes. ``gpus`` are those of each node; 0 runs the model on the processors."""

    preset: Preset
    model: Model
    resource: Resource
    gpus: int
    adapters: tuple[ServedAdapter, ...] = ()


def deployment(workspace: Workspace, serving: Serving, *, installation: Installation) -> Manifest:
    """A rollout takes the old pod away first: there is no spare GPU."""
    model = serving.model
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": children.metadata(workspace, component=COMPONENT),
        "spec": {
            "replicas": serving.resource.count,
            "progressDeadlineSeconds": model.readiness_seconds + SLACK_SECONDS,
            "selector": {"matchLabels": children.selector(workspace, component=COMPONENT)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": children.standard_labels(workspace, component=COMPONENT)},
                "spec": _pod(workspace, serving, installation=installation),
            },
        },
    }


def _pod(workspace: Workspace, serving: Serving, *, installation: Installation) -> dict[str, Any]:
    secrets = pods.pull_secrets(serving.preset)
    apart = children.selector(workspace, component=COMPONENT)
    image = installation.image(serving.preset, model=serving.model.name)
    fetching = adapters.fetching(serving.adapters, image=image, installation=installation)
    return {
        "affinity": pods.affinity(workspace, serving.resource.label_selector, apart=apart),
        "automountServiceAccountToken": False,
        "containers": [_container(serving, image=image)],
        "enableServiceLinks": False,
        **({"imagePullSecrets": secrets} if secrets else {}),
        **({"initContainers": fetching} if fetching else {}),
        "securityContext": pods.pod_security(),
        "terminationGracePeriodSeconds": 30,
        "tolerations": pods.tolerations(),
        "volumes": [*pods.volumes(), *adapters.volumes(serving.adapters)],
    }


def _container(serving: Serving, *, image: str) -> dict[str, Any]:
    model = serving.model
    return {
        "name": COMPONENT,
        "image": image,
        "command": ["python", "-m", "inference_server"],
        "args": [
            *(f"--{key}={value}" for key, value in sorted(_arguments(model).items())),
            *adapters.arguments(serving.adapters),
        ],
        "env": pods.environment(),
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "resources": pods.resources(model, gpus=serving.gpus),
        "startupProbe": {
            **_asks("/readyz"),
            "periodSeconds": STARTUP_PERIOD,
            "failureThreshold": ceil(model.readiness_seconds / STARTUP_PERIOD),
        },
        "readinessProbe": {**_asks("/readyz"), "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**_asks("/healthz"), "periodSeconds": 10, "failureThreshold": 6},
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # so that the status can quote why it ended
        "volumeMounts": [*pods.volume_mounts(), *adapters.mounts(serving.adapters)],
    }


def _arguments(model: Model) -> dict[str, str]:
    return {**model.arguments, "port": str(HTTP_PORT), "served_model_name": model.name}


def _asks(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": HTTP_PORT}, "timeoutSeconds": 5}
