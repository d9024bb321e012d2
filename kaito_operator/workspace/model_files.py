"""Where a model's files come from, and so what is run over them: the one table that decides.

| asked for | without ``presetOptions.image``                        | with it                         |
|-----------|--------------------------------------------------------|---------------------------------|
| baked     | our image of the model: ``kaito-<preset>:<version>``   | that image, our server          |
| kaito     | KAITO's public image of the model, KAITO's server      | that image, KAITO's server      |
| volume    | our runtime, KAITO's public image mounted for its files| our runtime, that image mounted |
| hub       | our runtime, the files from the Hugging Face Hub       | that image, our server          |

``auto`` is hub where a runtime image is configured, and where not, kaito: a cluster as it is needs no image built. A
model that is not in the catalogue is always hub.
"""

from dataclasses import dataclass
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.reasons import Reason
from kaito_operator.api.sources import Source
from kaito_operator.api.spec import Preset
from kaito_operator.api.workspace import Workspace
from kaito_operator.workspace import pods
from kaito_operator.workspace.finding import Finding, wrong
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.services import HTTP_PORT
from presets.catalog import Model

MODEL = "/mnt/model"
"""Where files are that are not in the image that is run."""
TOKEN_KEY = "HF_TOKEN"  # noqa: S105 - the name of a key in a Secret, as KAITO 0.12 has it
DOWNLOADER = "model"
"""The init container that fetches a model from the Hub."""
NEEDS_A_RUNTIME = "set runtimeImage of the operator's chart to an image that `make images` builds"


@dataclass(frozen=True, slots=True)
class Baked:
    """Our programs and the model in one image."""

    runtime: str

    @property
    def arguments(self) -> dict[str, str]:
        """What our programs are told of the place; nothing: it is the one they look in."""
        return {}


@dataclass(frozen=True, slots=True)
class KaitoImage:
    """KAITO's own image: its server and the model."""

    image: str


@dataclass(frozen=True, slots=True)
class Mounted:
    """Our runtime; the model is in an image that is mounted read-only (Kubernetes 1.35, or ImageVolume switched on)."""

    runtime: str
    image: str

    @property
    def arguments(self) -> dict[str, str]:
        """Where the model is: our programs know the places in an image."""
        return {"pretrained_model_name_or_path": MODEL}


@dataclass(frozen=True, slots=True)
class FromHub:
    """Our runtime; an init container fetches the model. Only that sees the token."""

    runtime: str
    id: str
    revision: str
    token_secret: str = ""

    @property
    def arguments(self) -> dict[str, str]:
        """Where the model will be."""
        return {"pretrained_model_name_or_path": MODEL}


Ours = Baked | Mounted | FromHub
ModelFiles = Ours | KaitoImage


def model_files(
    workspace: Workspace, preset: Preset, model: Model, *, installation: Installation
) -> ModelFiles | Finding:
    """The row of the table; or why there are no files."""
    options, runtime = preset.preset_options, installation.runtime_image
    own = (options.image if options else None) or ""
    asked = workspace.annotations.get(labels.MODEL_FILES, "")
    source = installation.runtime.source(model, asked=asked, own=bool(own))
    if source in (Source.KAITO, Source.VOLUME):
        image = own or _public(model, installation=installation)
        if not image:
            return _not_published(model)
        if source is Source.KAITO:
            return KaitoImage(image)
        return Mounted(runtime, image) if runtime else _no_runtime(f"the files of {model.name} are mounted")
    if source is Source.HUB and not own:
        secret = (options.model_access_secret if options else None) or ""
        return _from_hub(model, runtime=runtime, secret=secret)
    return Baked(own or f"{installation.registry}/kaito-{model.name}:{installation.version}")


def _public(model: Model, *, installation: Installation) -> str:
    """KAITO's image of a model; "" if it publishes none."""
    return f"{installation.registry}/kaito-{model.name}:{model.image_tag}" if model.image_tag else ""


def _from_hub(model: Model, *, runtime: str, secret: str) -> FromHub | Finding:
    if not runtime:
        return _no_runtime(f"the files of {model.name} come from the Hugging Face Hub")
    if model.gated and not secret:
        return wrong(
            Reason.HUB_GATED,
            f"{model.hub} is given only to those who have agreed to its terms on the Hub",
            cure=f"agree to them, put your token into a Secret under {TOKEN_KEY}, and write the Secret's name in "
            "presetOptions.modelAccessSecret",
        )
    return FromHub(runtime, model.hub, model.revision or "main", secret)


def _not_published(model: Model) -> Finding:
    told = f"KAITO publishes no image of {model.name}"
    return wrong(Reason.NO_MODEL_FILES, told, cure=f"name one in presetOptions.image; or {NEEDS_A_RUNTIME}")


def _no_runtime(told: str) -> Finding:
    return wrong(Reason.NO_MODEL_FILES, f"{told}, and no runtime image is configured", cure=NEEDS_A_RUNTIME)


def for_training(files: ModelFiles, model: Model) -> Ours | Finding:
    """The files where our programs are to run over them: KAITO's image has none of ours."""
    if isinstance(files, KaitoImage):
        return _no_runtime(f"tuning is done by a program of ours, which KAITO's image of {model.name} has not")
    return files


def fetching(files: Ours, *, installation: Installation) -> list[dict[str, Any]]:
    """The init container that brings the model."""
    if not isinstance(files, FromHub):
        return []
    token = [_token(files.token_secret)] if files.token_secret else []
    endpoint = [{"name": "HF_ENDPOINT", "value": installation.hub_endpoint}] if installation.hub_endpoint else []
    return [
        {
            "name": DOWNLOADER,
            "image": files.runtime,
            "command": ["python", "-m", "presets.hub.download"],
            "args": [f"--id={files.id}", f"--port={HTTP_PORT}", f"--revision={files.revision}", f"--to={MODEL}"],
            "env": [*pods.environment(), *endpoint, {"name": "HF_HUB_OFFLINE", "value": "0"}, *token],
            "securityContext": pods.container_security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": "model", "mountPath": MODEL}, pods.scratch_mount()],
        }
    ]


def _token(secret: str) -> dict[str, Any]:
    return {"name": TOKEN_KEY, "valueFrom": {"secretKeyRef": {"name": secret, "key": TOKEN_KEY}}}


def volumes(files: Ours) -> list[dict[str, Any]]:
    """What has the model, where the image that is run has not."""
    match files:
        case Mounted(image=image):
            return [{"name": "model", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}]
        case FromHub():
            return [{"name": "model", "emptyDir": {}}]
        case _:
            return []


def mounts(files: Ours) -> list[dict[str, Any]]:
    """Where our programs find it: read-only."""
    return [] if isinstance(files, Baked) else [{"name": "model", "mountPath": MODEL, "readOnly": True}]
