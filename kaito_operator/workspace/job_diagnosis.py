"""How far a tuning is, and why it does not go on: from the Job and its pods to the leaf."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kaito_operator.api.conditions import is_true
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.workspace import pod_diagnosis
from kaito_operator.workspace.finding import Finding, passed, waiting, waits_for, wrong
from kaito_operator.workspace.model_files import DOWNLOADER
from kaito_operator.workspace.pod_diagnosis import MODEL_FAILURES, last_line
from kaito_operator.workspace.seen_pods import Container, Job, Pod, Progress
from kaito_operator.workspace.tuning import PUBLISHER, TRAINER
from presets.tuning_steps import FINAL, ExitCode

STEPS_TOLD = {
    DOWNLOADER: "fetches the model",
    "download": "fetches the training data",
    TRAINER: "trains",
    PUBLISHER: "publishes the adapter",
}
AGAIN = "then delete the Job to try again"
REASONS = frozenset(each.value for each in Reason)
KEPT = timedelta(minutes=5)
"""The node of a Job that was given up, for its logs and for who mends it at once; after that nobody pays for it."""
NO_POD = "its pod is being created"
FAILURES = {
    ExitCode.CRASHED: (Reason.CRASHED, f"see `kubectl logs`, {AGAIN}"),
    ExitCode.CONFIG_INVALID: (Reason.CONFIG_INVALID, "mend training_config.yaml in the ConfigMap of tuning.config"),
    ExitCode.DATA_INVALID: (Reason.DATA_INVALID, f"give other data; or mend it where it is, {AGAIN}"),
    ExitCode.DOWNLOAD_FAILED: (Reason.DOWNLOAD_FAILED, f"see whether the address answers, {AGAIN}"),
    ExitCode.DOWNLOAD_REFUSED: (Reason.DOWNLOAD_REFUSED, "give another address in tuning.input"),
    **{code: (reason, f"{cure}, {AGAIN}") for code, (reason, cure) in MODEL_FAILURES.items()},
    ExitCode.OUT_OF_MEMORY: (Reason.TUNING_OUT_OF_MEMORY, "lower what it names, or take a larger instanceType"),
    ExitCode.PUSH_DENIED: (Reason.PUSH_DENIED, f"mend the push Secret or the repository, {AGAIN}"),
    ExitCode.PUSH_FAILED: (Reason.PUSH_FAILED, f"see whether the registry answers, {AGAIN}"),
    ExitCode.PREEMPTED: (Reason.PREEMPTED, ""),
}
"""The exit code of a step → our reason, and what to do."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a tuning has published: the image by tag, and its digest if it is known. Both are "" for a volume."""

    image: str
    digest: str

    @property
    def exactly(self) -> str:
        """The image by digest where that is known, so that a later push of the tag changes nothing."""
        if not self.digest:
            return self.image
        repository, _, tag = self.image.rpartition(":")
        return f"{repository if repository and '/' not in tag else self.image}@{self.digest}"


def result(job: Job | None, pods: Sequence[Pod], *, image: str, told: str) -> Result | None:
    """What the Job has made; None while it has not. ``told``: the digest that the status has of this very Job.

    With that it stays done when Job and pods have been tidied away: nobody wants to pay for a second training.
    """
    if told:
        return Result(image, told)
    if job is None or not job.complete:
        return None
    return Result(image, next(filter(None, map(_digest, pods)), ""))


def _digest(pod: Pod) -> str:
    """The digest in the last words of the container that published."""
    for container in pod.containers:
        if container.name == PUBLISHER and container.ended is not None and container.ended.exit_code == 0:
            try:
                words = json.loads(container.ended.message)
            except ValueError:
                return ""
            return str(words.get("digest", "")) if isinstance(words, dict) else ""
    return ""


def needs_no_node(job: Job | None, *, now: datetime) -> bool:
    """Whether the Job was given up so long ago that its node goes back: nothing runs on it, and nothing will."""
    return job is not None and job.failed_at is not None and now >= job.failed_at + KEPT


def started(
    job: Job | None,
    pods: Sequence[Pod],
    *,
    name: str,
    ending: Sequence[Pod],
    done: bool,
    begun: bool,
    before: Mapping[str, Any],
    now: datetime,
) -> Finding:
    """JobStarted: whether a pod of the Job is at work, or has been. False once the Job is given up.

    ``ending``: pods that are not the Job's, but may still have its node. ``before``: the condition as the status has
    it, for words of a pod that went with its node.
    """
    if done or (job is not None and job.complete):
        return passed(Reason.JOB_STARTED, "the Job is done")
    if job is None and not begun:
        return waits_for(ConditionType.RESOURCE_READY)
    if job is None:  # it is written in this very pass
        return waiting(Reason.JOB_PENDING, f"Job {name}: {NO_POD}")
    if job.failed_at is not None:
        left = (job.failed_at + KEPT - now).total_seconds()
        return replace(_given_up(job, pods, before), look_again=left if left > 0 else None)
    if told := next((found for pod in pods if (found := _ended_for_good(pod))), None):
        return told
    return _at_work(job, pods, ending=ending, now=now)


def _at_work(job: Job, pods: Sequence[Pod], *, ending: Sequence[Pod], now: datetime) -> Finding:
    living = [pod for pod in pods if not pod.deleting and pod.phase not in ("Failed", "Succeeded")]
    if ending and not any(is_true(pod.conditions, "PodScheduled") for pod in living):
        return waiting(Reason.JOB_PENDING, f"Job {job.name}: Pod {ending[0].name} of what ran before is still ending")
    if found := pod_diagnosis.trouble(living, pods, now=now):
        return found
    if any(container.runs or container.ended for pod in living for container in pod.containers):
        return passed(Reason.JOB_STARTED, f"Job {job.name} is at work")
    return waiting(Reason.JOB_PENDING, f"Job {job.name}: {_waits(living, pods)}")


def _waits(living: Sequence[Pod], pods: Sequence[Pod]) -> str:
    """What it waits for; after a failure, what that was."""
    failures = [found for pod in pods if (found := _failure(pod))]
    if not living and failures:
        return f"tries again after {failures[-1].message}"
    return next((pod_diagnosis.progress(pod) for pod in living), NO_POD)


def succeeded(
    job: Job | None, pods: Sequence[Pod], made: Result | None, *, started: Finding, progress: Progress | None
) -> Finding:
    """TuningSucceeded: whether the result is where it was to go."""
    if made is not None:
        return passed(
            Reason.TUNED, f"the adapter is at {made.exactly}" if made.image else "the adapter is in the volume"
        )
    if not started.passed or job is None:
        return waits_for(ConditionType.JOB_STARTED)
    at_work = [(pod, c) for pod in pods for c in pod.containers if c.runs]
    if not at_work:
        return waiting(Reason.TUNING, f"Job {job.name} goes from one step to the next")
    pod, container = at_work[-1]
    doing = STEPS_TOLD.get(container.name, f"runs {container.name}")
    told = str(progress or "") if container.name == TRAINER else pod.told
    far = f": {told}" if told else ""
    return waiting(Reason.TUNING, f"Pod {pod.name} {doing}{far}")


def _given_up(job: Job, pods: Sequence[Pod], before: Mapping[str, Any]) -> Finding:
    """The last pod's own words, which are kept when it goes."""
    failures = [found for pod in sorted(pods, key=lambda pod: pod.created_at) if (found := _failure(pod))]
    if failures:
        return failures[-1]
    known = before.get("status") == "False" and before.get("reason") in REASONS
    if known and before.get("message", "").startswith(f"Pod {job.name}-"):
        return wrong(Reason(before["reason"]), before["message"])
    told = f"Job {job.name} failed ({job.failed}) and its pods are gone"
    return wrong(Reason.JOB_FAILED, told, cure="delete the Job to try again")


def _ended_for_good(pod: Pod) -> Finding | None:
    """A step that is not tried again: pod and Job say so a moment later."""
    for container in pod.containers:
        if container.ended is not None and container.ended.exit_code in FINAL:
            return _step_failure(pod, container, code=container.ended.exit_code, said=container.ended.message)
    return None


def _failure(pod: Pod) -> Finding | None:
    """Why a pod failed, from the exit code and the last words of the step that ended badly."""
    if pod.phase != "Failed":
        return None
    for container in pod.containers:
        if container.ended is not None and container.ended.exit_code != 0:
            return _step_failure(pod, container, code=container.ended.exit_code, said=container.ended.message)
    return wrong(Reason.POD_EVICTED, f"Pod {pod.name} failed: {pod.reason} {pod.message}".rstrip())


def _step_failure(pod: Pod, container: Container, *, code: int, said: str) -> Finding:
    what = f"Pod {pod.name}, {container.name}"
    if container.ended is not None and container.ended.reason == "OOMKilled":
        return wrong(Reason.OUT_OF_MEMORY, f"{what} was killed: out of memory", cure="take a larger instanceType")
    if code not in FAILURES:
        told = f"{what} ended with exit code {code}: {last_line(said)}"
        return wrong(Reason.JOB_FAILED, told, cure=f"see `kubectl logs`, {AGAIN}")
    reason, cure = FAILURES[ExitCode(code)]
    return wrong(reason, f"{what}: {last_line(said).removeprefix(f'{reason.value}: ')}", cure=cure)
