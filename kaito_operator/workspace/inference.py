"""What serves a preset: a Deployment, one replica on each node; or a StatefulSet, one replica on all of them."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from kaito_operator.api.spec import Preset, Resource
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Manifest
from kaito_operator.workspace import adapters, children, history, kaito_server, model_files, pods, services
from kaito_operator.workspace.adapters import ServedAdapter
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.model_files import KaitoImage, ModelFiles, Ours
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
    files: ModelFiles
    resource: Resource
    gpus: int
    spreads: bool = False
    """Whether all pods together are one replica."""
    adapters: tuple[ServedAdapter, ...] = ()


def manifests(workspace: Workspace, serving: Serving, *, installation: Installation) -> tuple[Manifest, ...]:
    """The Services and what runs the pods."""
    service = services.service(workspace, component=COMPONENT, first_alone=serving.spreads)
    template = {
        "metadata": {"labels": children.standard_labels(workspace, component=COMPONENT)},
        "spec": _pod(workspace, serving, installation=installation),
    }
    if serving.spreads:
        headless = services.headless(workspace, component=COMPONENT)
        return service, headless, stateful_set(workspace, serving, template=template)
    return service, deployment(workspace, serving, template=template)


def deployment(workspace: Workspace, serving: Serving, *, template: Manifest) -> Manifest:
    """A rollout takes the old pod away first: there is no spare GPU."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**children.metadata(workspace, component=COMPONENT), **history.annotations(workspace)},
        "spec": {
            "replicas": serving.resource.count,
            "progressDeadlineSeconds": serving.model.readiness_seconds + SLACK_SECONDS,
            "selector": {"matchLabels": children.selector(workspace, component=COMPONENT)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": template,
        },
    }


def stateful_set(workspace: Workspace, serving: Serving, *, template: Manifest) -> Manifest:
    """The pods start together: none is ready before the others have joined it."""
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {**children.metadata(workspace, component=COMPONENT), **history.annotations(workspace)},
        "spec": {
            "replicas": serving.resource.count,
            "podManagementPolicy": "Parallel",
            "serviceName": services.headless_name(workspace),
            "selector": {"matchLabels": children.selector(workspace, component=COMPONENT)},
            "template": template,
        },
    }


def _pod(workspace: Workspace, serving: Serving, *, installation: Installation) -> dict[str, Any]:
    """What is the same wherever the model's files come from, around what is not."""
    apart = children.selector(workspace, component=COMPONENT)
    if isinstance(serving.files, KaitoImage):
        own = _kaitos(workspace, serving, serving.files)
    else:
        own = _ours(serving, serving.files, installation=installation)
    return {
        "affinity": pods.affinity(workspace, serving.resource.label_selector, apart=apart),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "tolerations": pods.tolerations(),
        **{key: value for key, value in own.items() if value},
    }


def _ours(serving: Serving, files: Ours, *, installation: Installation) -> dict[str, Any]:
    """Our runtime over the files, by the restricted profile."""
    fetched = adapters.fetching(serving.adapters, image=files.runtime, installation=installation)
    arguments = {
        **serving.model.arguments,
        **files.arguments,
        "port": str(HTTP_PORT),
        "served_model_name": serving.model.name,
    }
    container = {
        "name": COMPONENT,
        "image": files.runtime,
        "command": ["python", "-m", "inference_server"],
        "args": [
            *(f"--{key}={value}" for key, value in sorted(arguments.items())),
            *adapters.arguments(serving.adapters),
        ],
        "env": pods.environment(),
        "securityContext": pods.container_security(),
        "volumeMounts": [*pods.volume_mounts(), *model_files.mounts(files), *adapters.mounts(serving.adapters)],
    }
    return {
        "containers": [{**container, **_watched(serving, started="/readyz")}],
        "imagePullSecrets": pods.pull_secrets(serving.preset),
        "initContainers": [*model_files.fetching(files, installation=installation), *fetched],
        "securityContext": pods.pod_security(),
        "volumes": [*pods.volumes(), *model_files.volumes(files), *adapters.volumes(serving.adapters)],
    }


def _kaitos(workspace: Workspace, serving: Serving, files: KaitoImage) -> dict[str, Any]:
    """KAITO's image and its command, by the baseline profile. Its port opens when the model is loaded."""
    container = kaito_server.container(
        workspace,
        serving.model,
        files,
        machines=serving.resource.count,
        name=COMPONENT,
        adapters=serving.adapters,
    )
    secrets = (secret for each in serving.adapters for secret in each.pull_secrets)
    return {
        "containers": [{**container, **_watched(serving, started="/healthz")}],
        "imagePullSecrets": pods.pull_secrets(serving.preset, *secrets),
        "initContainers": kaito_server.fetching(serving.adapters),
        "securityContext": pods.baseline_pod_security(),
        "volumes": kaito_server.volumes(serving.adapters),
    }


def _watched(serving: Serving, *, started: str) -> dict[str, Any]:
    """How a server's container is reached, what it is given, and how it is seen to answer."""
    return {
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "resources": pods.resources(serving.model, gpus=serving.gpus),
        "startupProbe": {
            **_asks(started),
            "periodSeconds": STARTUP_PERIOD,
            "failureThreshold": ceil(serving.model.readiness_seconds / STARTUP_PERIOD),
        },
        "readinessProbe": {**_asks(started), "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**_asks("/healthz"), "periodSeconds": 10, "failureThreshold": 6},
        "terminationMessagePolicy": "FallbackToLogsOnError",  # so that the status can quote why it ended
    }


def _asks(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": HTTP_PORT}, "timeoutSeconds": 5}
