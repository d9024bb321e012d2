"""The Job that tunes a preset: download, train, publish, one step after another on the node that was paid for."""

from dataclasses import dataclass
from hashlib import sha256
from json import dumps
from typing import Any

from kaito_operator.api.spec import Preset, Resource, Tuning
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Manifest
from kaito_operator.workspace import adapters, children, history, model_files, pods
from kaito_operator.workspace.adapters import DOCKER_CONFIG
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.model_files import Ours
from kaito_operator.workspace.services import HTTP_PORT
from presets.catalog import Model
from presets.tuning_steps import FINAL, ExitCode

COMPONENT = "tuning"
TRAINER, PUBLISHER = "trainer", "publish"
DATA, CONFIG, RESULTS, PUSH = "/mnt/data", "/mnt/config", "/mnt/results", "/mnt/push"
WEIGHTS = "/workspace/weights"
"""Where our images have a model baked in."""
CONFIG_KEY = "training_config.yaml"
TRIES = 4
"""Pods at most that may fail by what may be better next time; Kubernetes waits 10, 20, 40 s between them."""
GRACE_SECONDS = 120
"""For a last checkpoint, which of a large model's adapter and optimizer is some GiB."""


@dataclass(frozen=True, slots=True)
class Training:
    """A tuning on its node. ``config`` is the training configuration, whole; ``gpus`` are those of the node."""

    tuning: Tuning
    model: Model
    files: Ours
    resource: Resource
    gpus: int
    config: str

    @property
    def preset(self) -> Preset:
        """What is tuned."""
        return self.tuning.preset


def job_name(workspace: Workspace, *, tuning: Tuning, config: str) -> str:
    """A function of what is tuned with what and where to: another data set is another Job."""
    told = {
        "workspace": workspace.uid,
        "config": config,
        "tuning": tuning.model_dump(mode="json", exclude={"serve", "config"}),
    }
    digest = sha256(dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return f"{workspace.key.name[:54].rstrip('-')}-{digest}"


def config_map(workspace: Workspace, *, name: str, config: str) -> Manifest:
    """The configuration that was checked, of the Job's name, so that the Job sees exactly that."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **children.metadata(workspace, component=COMPONENT, name=name),
            **history.annotations(workspace),
        },
        "data": {CONFIG_KEY: config},
    }


def volume_claim(workspace: Workspace, *, gib: int, storage_class: str) -> Manifest:
    """Where checkpoints and results outlive the pod: the next Job goes on, or publishes without training again."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": children.metadata(workspace, component=COMPONENT, name=claim_name(workspace)),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": f"{gib}Gi"}},
        },
    }


def claim_name(workspace: Workspace) -> str:
    """One for all Jobs of a Workspace."""
    return f"{workspace.key.name}-tuning"


def job(workspace: Workspace, training: Training, *, name: str, installation: Installation) -> Manifest:
    """Errors that would come again end it at once, an interruption does not count, everything else is tried again."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": children.metadata(workspace, component=COMPONENT, name=name),
        "spec": {
            "backoffLimit": TRIES - 1,
            "podReplacementPolicy": "Failed",  # one node, one GPU: the next pod waits for the end of the last
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": sorted(map(int, FINAL))}},
                    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [int(ExitCode.PREEMPTED)]}},
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {
                    "labels": children.standard_labels(workspace, component=COMPONENT),
                    "annotations": {"kubectl.kubernetes.io/default-container": TRAINER},
                },
                "spec": _pod(workspace, training, name=name, installation=installation),
            },
        },
    }


def _pod(workspace: Workspace, training: Training, *, name: str, installation: Installation) -> dict[str, Any]:
    image = training.files.runtime
    secrets = pods.pull_secrets(training.preset)
    apart = children.selector(workspace, component=COMPONENT)
    *before, last = [
        *model_files.fetching(training.files, installation=installation),
        *_steps(training, image=image, installation=installation),
    ]
    return {
        "affinity": pods.affinity(workspace, training.resource.label_selector, apart=apart),
        "automountServiceAccountToken": False,
        **({"initContainers": before} if before else {}),
        "containers": [last],
        "enableServiceLinks": False,
        **({"imagePullSecrets": secrets} if secrets else {}),
        "restartPolicy": "Never",
        "securityContext": pods.pod_security(),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "tolerations": pods.tolerations(),
        "volumes": _volumes(workspace, training, config_map=name, installation=installation),
    }


def _steps(training: Training, *, image: str, installation: Installation) -> list[dict[str, Any]]:
    """In their order. Data in a volume needs no fetching; a result that stays in a volume no publishing."""
    source, output = training.tuning.input, training.tuning.output
    fetched: list[dict[str, Any]] = []
    if source.urls is not None:
        fetched = [_download(source.urls, image=image, installation=installation)]
    elif source.image is not None:
        fetched = [
            adapters.fetch(
                "download",
                source.image,
                to=DATA,
                mount={"name": "data", "mountPath": DATA},
                pull_secrets=source.image_pull_secrets,
                runtime_image=image,
                installation=installation,
            )
        ]
    published = [_publish(output.image, image=image, installation=installation)] if output.image else []
    return [*fetched, _trainer(training, image=image), *published]


def _download(urls: tuple[str, ...], *, image: str, installation: Installation) -> dict[str, Any]:
    return {
        **_step("download", image, module="tuning_runner.download"),
        "args": [f"--to={DATA}", *(f"--allow={network}" for network in installation.download_allow)],
        "env": [*pods.environment(), {"name": "DATA_URLS", "value": "\n".join(urls)}],
        "volumeMounts": [{"name": "data", "mountPath": DATA}, pods.scratch_mount()],
    }


def _trainer(training: Training, *, image: str) -> dict[str, Any]:
    model = training.files.arguments.get("pretrained_model_name_or_path", WEIGHTS)
    return {
        **_step(TRAINER, image, module="tuning_runner"),
        "args": [
            f"--config={CONFIG}/{CONFIG_KEY}",
            f"--data={DATA}",
            f"--method={training.tuning.method.lower()}",
            f"--port={HTTP_PORT}",
            f"--preset={training.model.name}",
            f"--pretrained_model_name_or_path={model}",
            *([f"--processes={training.gpus}"] if training.gpus > 1 else []),
            f"--results={RESULTS}",
        ],
        "env": pods.environment(),
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "resources": pods.resources(training.model, gpus=training.gpus),
        "volumeMounts": [
            *pods.volume_mounts(),
            *model_files.mounts(training.files),
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            {"name": "data", "mountPath": DATA, "readOnly": True},
            {"name": "results", "mountPath": RESULTS},
        ],
    }


def _publish(target: str, *, image: str, installation: Installation) -> dict[str, Any]:
    """The only container that sees the push Secret."""
    return {
        **_step(PUBLISHER, image, module="tuning_runner.publish"),
        "args": [
            f"--auth={PUSH}/{DOCKER_CONFIG}",
            f"--image={target}",
            f"--results={RESULTS}",
            *adapters.plain_http(installation),
        ],
        "env": pods.environment(),
        "volumeMounts": [
            {"name": "push", "mountPath": PUSH, "readOnly": True},
            {"name": "results", "mountPath": RESULTS, "readOnly": True},
            pods.scratch_mount(),
        ],
    }


def _step(name: str, image: str, *, module: str) -> dict[str, Any]:
    """What the steps have in common. The last words of each are for the status."""
    return {
        "name": name,
        "image": image,
        "command": ["python", "-m", module],
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _volumes(
    workspace: Workspace, training: Training, *, config_map: str, installation: Installation
) -> list[dict[str, Any]]:
    source, output = training.tuning.input, training.tuning.output
    push = output.image_push_secret if output.image else None
    return [
        *pods.volumes(),
        *model_files.volumes(training.files),
        {"name": "config", "configMap": {"name": config_map}},
        {"name": "data", **(source.volume_source or {"emptyDir": {}})},
        {"name": "results", **(output.volume_source or _results(workspace, installation=installation))},
        *([{"name": "push", "secret": adapters.docker_config(push)}] if push else []),
        *adapters.secret_volumes(source.image_pull_secrets if source.image else ()),
    ]


def _results(workspace: Workspace, *, installation: Installation) -> dict[str, Any]:
    if not installation.tuning_storage_class:
        return {"emptyDir": {}}
    return {"persistentVolumeClaim": {"claimName": claim_name(workspace)}}
