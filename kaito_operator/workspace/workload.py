"""The objects that do the work of a Workspace, where they do not say what is wanted; and those that are in the way."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from kaito_operator.api.kinds import JOB
from kaito_operator.api.spec import Resource
from kaito_operator.plan import Apply, Delete, Manifest, Ref
from kaito_operator.workspace import children, history, inference, services, template, tuning
from kaito_operator.workspace.inference import Serving
from kaito_operator.workspace.installation import Installation
from kaito_operator.workspace.observe import Observed
from kaito_operator.workspace.task import ServedPreset, ServedTemplate, Task
from kaito_operator.workspace.tuning import Training


@dataclass(frozen=True, slots=True)
class Workload:
    """What is written and what goes."""

    apply: tuple[Apply, ...] = ()
    delete: tuple[Delete, ...] = ()


def workload(
    seen: Observed, task: Task, resource: Resource, *, gpus: int, begun: bool, installation: Installation
) -> Workload:
    """``begun``: whether the nodes are there. What runs already is kept as wanted, whatever became of them."""
    component = tuning.COMPONENT if task.tuned is not None else inference.COMPONENT
    kept = history.keeping(seen.workspace, _carried_out(seen, task), seen.revisions, component=component)
    work = _work(seen, task, resource, gpus=gpus, begun=begun, installation=installation)
    return Workload(apply=(*kept.apply, *work.apply), delete=(*work.delete, *kept.delete))


def left_running(seen: Observed, work: Workload) -> Manifest | None:
    """What runs, as it is once the work is carried out: if that changes it, a generation that nobody has rolled out."""
    runs = seen.runs
    if runs is None or not any(step.uid == runs["metadata"]["uid"] and _changes(runs, step) for step in work.apply):
        return runs
    meta = runs["metadata"]
    return {**runs, "metadata": {**meta, "generation": meta.get("generation", 0) + 1}}


def _changes(runs: Manifest, step: Apply) -> bool:
    """Whether it asks for other pods: more than somebody's label that is put right."""
    signed = [each["metadata"].get("annotations", {}).get(children.APPLIED) for each in (runs, step.manifest)]
    return signed[0] != signed[1] or not children.holds(runs["spec"], step.manifest["spec"])


def _work(
    seen: Observed, task: Task, resource: Resource, *, gpus: int, begun: bool, installation: Installation
) -> Workload:
    if task.tuned is not None and task.trains:
        tuned = task.tuned
        training = Training(tuned.tuning, tuned.model, tuned.files, resource, gpus=gpus, config=tuned.config)
        applied = _trained(seen, training, name=tuned.job_name, installation=installation) if begun else ()
        in_the_way = (*_stale_jobs(seen, keep=tuned.job_name), *_deleted(seen.runs))  # it holds the GPUs
        return Workload(apply=tuple(applied), delete=in_the_way)
    if task.over:
        return Workload(delete=tuple(chain.from_iterable(map(_deleted, seen.serving))))
    if begun or seen.runs is not None:
        wanted = _served(seen, task.served, resource, gpus=gpus, installation=installation)
        return Workload(apply=tuple(_free(seen, wanted)), delete=tuple(_outdated(seen, wanted)))
    return Workload()


def _carried_out(seen: Observed, task: Task) -> Manifest | None:
    """What bears the specification that was carried out last: of a tuning, the configuration of the Job told of."""
    if task.tuned is None:
        return seen.runs
    told = seen.workspace.status.get("tuning")
    job = told.get("job") if isinstance(told, dict) else None
    return next((each for each in seen.config_maps if each["metadata"]["name"] == job), None)


def _served(
    seen: Observed,
    served: ServedPreset | ServedTemplate,
    resource: Resource,
    *,
    gpus: int,
    installation: Installation,
) -> tuple[Manifest, ...]:
    """The Services and the Deployment, or StatefulSet, that are wanted."""
    workspace = seen.workspace
    match served:
        case ServedPreset(preset, model, files, adapters):
            serving = Serving(preset, model, files, resource, gpus=gpus, spreads=served.spreads, adapters=adapters)
            return inference.manifests(workspace, serving, installation=installation)
        case ServedTemplate(given):
            service = services.service(workspace, component=inference.COMPONENT, port=template.port(given))
            return service, template.deployment(workspace, given, resource)


def _free(seen: Observed, wanted: Iterable[Manifest]) -> Iterator[Apply]:
    """What has to be written of them. What belongs to others is left alone."""
    taken, found = {Ref.of(each) for each in seen.foreign}, {Ref.of(each): each for each in seen.serving}
    for manifest in wanted:
        if (ref := Ref.of(manifest)) not in taken:
            applies = children.applying(manifest, seen=found.get(ref))
            yield from (step for step in applies if seen.refused is None or step.manifest != seen.refused.manifest)


def _outdated(seen: Observed, wanted: Iterable[Manifest]) -> Iterator[Delete]:
    """What served the model in another shape, when its files came from elsewhere."""
    refs = {Ref.of(each) for each in wanted}
    for found in seen.serving:
        if Ref.of(found) not in refs:
            yield from _deleted(found)


def _trained(seen: Observed, training: Training, *, name: str, installation: Installation) -> Iterator[Apply]:
    """ConfigMap, volume and Job. A Job's pod and a claim cannot be changed: what is there stays as it is."""
    if any(each["kind"] == "PersistentVolumeClaim" for each in seen.foreign):
        return
    workspace = seen.workspace
    config = next((each for each in seen.config_maps if each["metadata"]["name"] == name), None)
    yield from children.applying(tuning.config_map(workspace, name=name, config=training.config), seen=config)
    storage = installation.tuning_storage_class
    if storage and seen.claim is None and training.tuning.output.volume_source is None:
        yield Apply(tuning.volume_claim(workspace, gib=training.model.disk_gib, storage_class=storage))
    if not any(job.name == name for job in seen.jobs):
        yield Apply(tuning.job(workspace, training, name=name, installation=installation))


def _deleted(found: Manifest | None) -> Iterator[Delete]:
    if found is not None and "deletionTimestamp" not in found["metadata"]:
        yield Delete(Ref.of(found), found["metadata"]["uid"])


def _stale_jobs(seen: Observed, *, keep: str) -> Iterator[Delete]:
    """Jobs for what was asked for before. Their configuration goes with the Workspace."""
    for job in seen.jobs:
        if job.name != keep and not job.deleting:
            yield Delete(Ref(JOB.api_version, JOB.kind, job.name, seen.workspace.key.namespace), job.uid)
