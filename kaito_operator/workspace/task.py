"""What a Workspace asks for, looked up: the model, how it is tuned, what is served in the end. And how far that is."""

from dataclasses import dataclass

from kaito_operator.api.reasons import Reason
from kaito_operator.api.spec import Preset, Tuning
from kaito_operator.plan import Manifest
from kaito_operator.workspace import adapters, job_diagnosis, model_files, template, tuning
from kaito_operator.workspace.adapters import ServedAdapter
from kaito_operator.workspace.finding import Finding, wrong
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.job_diagnosis import Result
from kaito_operator.workspace.model_files import KaitoImage, ModelFiles, Ours
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.seen_pods import Job, Pod
from presets.catalog import Catalog, Model
from presets.training_config import TrainingConfigError, default_text, parse


@dataclass(frozen=True, slots=True)
class TuningTask:
    """A tuning and what has become of it."""

    tuning: Tuning
    model: Model
    files: Ours
    config: str
    job_name: str
    job: Job | None
    pods: tuple[Pod, ...]
    ending: tuple[Pod, ...]
    """Pods of the Workspace that are not the Job's, and may still have the node: they are being deleted."""
    result: Result | None


@dataclass(frozen=True, slots=True)
class Needs:
    """What each node must have. ``cpu``: whether it is of use without a GPU."""

    gpus: int
    cpu: bool
    disk_gib: int


@dataclass(frozen=True, slots=True)
class ServedPreset:
    """A model of the catalogue, with adapters or without."""

    preset: Preset
    model: Model
    files: ModelFiles
    adapters: tuple[ServedAdapter, ...] = ()

    @property
    def spreads(self) -> bool:
        """Whether all pods together are one replica: KAITO's server can, ours is one process on one machine."""
        return self.model.distributed and isinstance(self.files, KaitoImage)

    @property
    def needs(self) -> Needs:
        """What the model needs."""
        return Needs(self.model.gpus, self.model.cpu, self.model.disk_gib)


@dataclass(frozen=True, slots=True)
class ServedTemplate:
    """A pod template of the user's own."""

    template: Manifest

    @property
    def needs(self) -> Needs:
        """What its containers ask for."""
        gpus = template.gpus(self.template)
        return Needs(gpus, gpus == 0, template.DISK_GIB)


@dataclass(frozen=True, slots=True)
class Task:
    """To serve something; with ``tuned``, first to tune it."""

    served: ServedPreset | ServedTemplate
    tuned: TuningTask | None = None

    @property
    def trains(self) -> bool:
        """Whether there is still something to train or to publish."""
        return self.tuned is not None and self.tuned.result is None

    @property
    def serves(self) -> bool:
        """Whether the model is served, now or once it is tuned."""
        return self.tuned is None or self.tuned.tuning.serve

    @property
    def over(self) -> bool:
        """Whether all is done that was asked for: no machine is needed any more."""
        return not self.trains and not self.serves


def task(seen: Observed, *, catalog: Catalog, installation: Installation) -> Task | Finding:
    """What is to be done; or what is wrong with what the Workspace refers to. For a body without problems."""
    body = seen.workspace.body
    if body is None:
        return wrong(Reason.INVALID, "what is stored cannot be read")
    if body.tuning is not None:
        return _tuning_task(seen, body.tuning, catalog=catalog, installation=installation)
    if body.inference is None or body.inference.preset is None:
        given = body.inference.template if body.inference is not None else None
        return Task(ServedTemplate(given or {}))
    preset = body.inference.preset
    model = catalog.model(preset.name)
    files = model_files.model_files(seen.workspace, preset, model, installation=installation)
    if isinstance(files, Finding):
        return files
    return Task(ServedPreset(preset, model, files, adapters.of_spec(body.inference.adapters)))


def _tuning_task(seen: Observed, spec: Tuning, *, catalog: Catalog, installation: Installation) -> Task | Finding:
    config, workspace, model = _config(seen, spec), seen.workspace, catalog.model(spec.preset.name)
    if isinstance(config, Finding):
        return config
    found = model_files.model_files(workspace, spec.preset, model, installation=installation)
    files = found if isinstance(found, Finding) else model_files.for_training(found, model)
    if isinstance(files, Finding):
        return files
    name = tuning.job_name(workspace, tuning=spec, config=config)
    job = next((job for job in seen.jobs if job.name == name), None)
    pods = tuple(pod for pod in seen.pods if job is not None and pod.owner_uid == job.uid)
    ending = tuple(pod for pod in seen.pods if pod.deleting and pod not in pods)
    told = workspace.status.get("tuning")
    known = told if isinstance(told, dict) and told.get("job") == name else {}
    result = job_diagnosis.result(job, pods, image=spec.output.image or "", told=str(known.get("digest", "")))
    served = (_served(workspace.key.name, spec, result),) if result is not None and spec.serve else ()
    return Task(
        ServedPreset(spec.preset, model, files, served),
        tuned=TuningTask(spec, model, files, config, name, job, pods, ending, result),
    )


def _served(name: str, spec: Tuning, result: Result) -> ServedAdapter:
    """The result as an adapter of the Workspace's name; what pushed it can pull it."""
    secret = spec.output.image_push_secret
    return ServedAdapter(
        name=name,
        image=result.exactly,
        volume=spec.output.volume_source if not spec.output.image else None,
        pull_secrets=(secret,) if secret and spec.output.image else (),
    )


def _config(seen: Observed, spec: Tuning) -> str | Finding:
    """The training configuration, checked before a machine is bought for it."""
    if spec.config is None:
        return default_text(spec.method.lower())
    found = seen.own_config
    if found is None:
        told = f"there is no ConfigMap {spec.config} in namespace {seen.workspace.key.namespace}"
        return wrong(Reason.CONFIG_MAP_MISSING, told, cure="create it, or leave tuning.config out", look_again=10.0)
    text = (found.get("data") or {}).get(tuning.CONFIG_KEY)
    if text is None:
        told = f"ConfigMap {spec.config} has no key {tuning.CONFIG_KEY}"
        return wrong(Reason.CONFIG_INVALID, told, look_again=10.0)
    try:
        parse(text, method=spec.method.lower())
    except TrainingConfigError as error:
        return wrong(Reason.CONFIG_INVALID, f"ConfigMap {spec.config}: {error}", look_again=10.0)
    return str(text)
