"""Why the model does not answer: from the Deployment, or StatefulSet, and its pods to the leaf."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from kaito_operator.api.conditions import by_type, is_true, moment
from kaito_operator.api.reasons import Reason
from kaito_operator.plan import Manifest
from kaito_operator.workspace.adapters import FETCHERS
from kaito_operator.workspace.finding import Finding, passed, waiting, wrong
from kaito_operator.workspace.model_files import DOWNLOADER
from kaito_operator.workspace.seen_pods import Container, Pod
from presets.tuning_steps import ExitCode

Rule = Callable[[Pod], Finding | None]
SCHEDULING_SECONDS = 10.0
"""A pod that the scheduler cannot place at once may only be ahead of the scheduler's view of the nodes."""
PROBE_SECONDS = 60.0
"""A server that has started and does not pass its readiness probe for so long is not only busy."""
MOUNT_SECONDS = 60.0
"""A pod whose volumes are not there by then mounts something that does not exist."""
EVICTION_SECONDS = 300.0
"""For so long an eviction is told as the cause of what the pod in its place still has to do."""
LONGEST_QUOTE = 300
RPC = re.compile(r"^rpc error: code = \w+ desc = ")
ACCESS_SECRET = "modelAccessSecret"  # noqa: S105 - the name of a field
KILLED = 137
"""The exit code of a process that SIGKILL ended."""
SEE_IMAGE = "see whether the image exists and imagePullSecrets may pull it"
WAITS = {
    "CreateContainerConfigError": (
        Reason.CONTAINER_START_ERROR,
        "see whether the Secrets and ConfigMaps it names exist",
    ),
    "CreateContainerError": (Reason.CONTAINER_START_ERROR, "see the message"),
    "ErrImageNeverPull": (Reason.IMAGE_PULL_ERROR, "load the image onto the node"),
    "ErrImagePull": (Reason.IMAGE_PULL_ERROR, SEE_IMAGE),
    "ImageInspectError": (Reason.IMAGE_PULL_ERROR, "see whether the image is whole"),
    "ImagePullBackOff": (Reason.IMAGE_PULL_ERROR, SEE_IMAGE),
    "InvalidImageName": (Reason.IMAGE_PULL_ERROR, "write the image as registry/repository:tag"),
    "RegistryUnavailable": (Reason.IMAGE_PULL_ERROR, "see whether the nodes reach the registry"),
    "RunContainerError": (Reason.CONTAINER_START_ERROR, "see the message"),
}
"""The kubelet's reason for not starting a container → ours, and what to do."""
DENIED = ("401 Unauthorized", "403 Forbidden", "authorization failed", "pull access denied", "unauthorized:")
"""Of the words of containerd, CRI-O and Docker about a registry that gives an image to others only."""
PRESET_IMAGE = "/kaito-"
"""In the name of every image that the operator chooses, and seldom in another."""
CHOSEN = "; a preset's image is as presetRegistryName, presetVersion and modelFiles of the operator's chart say"
MAY_PULL = "name a Secret that may pull it in imagePullSecrets, or give the nodes access to the registry"
MODEL_FAILURES = {
    ExitCode.DISK_FULL: (Reason.DISK_FULL, "take a larger instanceType, or a node with a larger disk"),
    ExitCode.HUB_GATED: (
        Reason.HUB_GATED,
        f"agree to the model's terms on the Hub and name the Secret with your token in presetOptions.{ACCESS_SECRET}",
    ),
    ExitCode.HUB_MODEL_MISSING: (
        Reason.HUB_MODEL_MISSING,
        f"see whether the Hub has it; for a private one name the Secret with a token in presetOptions.{ACCESS_SECRET}",
    ),
    ExitCode.HUB_MODEL_UNSUPPORTED: (Reason.HUB_MODEL_UNSUPPORTED, "take another model, or an image of yours"),
    ExitCode.HUB_UNREACHABLE: (
        Reason.HUB_UNREACHABLE,
        "see whether the nodes reach the Hub, or name a mirror in hub.endpoint of the operator's chart",
    ),
}
"""The exit code of the step that fetches a model → our reason, and what to do."""
ADAPTER_FAILURES = {
    ExitCode.DATA_INVALID: (Reason.DATA_INVALID, "name an image that has an adapter in /data"),
    ExitCode.DISK_FULL: MODEL_FAILURES[ExitCode.DISK_FULL],
    ExitCode.DOWNLOAD_FAILED: (Reason.DOWNLOAD_FAILED, "see whether the nodes reach the registry"),
    ExitCode.DOWNLOAD_REFUSED: (
        Reason.DOWNLOAD_REFUSED,
        "correct the adapter's image, or name a Secret that may read it in its source.imagePullSecrets",
    ),
}
"""The exit code of a step that fetches an adapter → our reason, and what to do."""
GPU_MEMORY_WORDS = ("CUDA out of memory", "OutOfMemoryError")
"""What torch says last when the card is too small."""


def inference(deployment: Manifest | None, pods: Sequence[Pod], *, count: int, now: datetime) -> Finding:
    """InferenceReady: whether ``count`` replicas of what is wanted now answer. No latch: it is worked out each time."""
    ready = _answering(deployment) if deployment is not None else 0
    if ready == count:
        return passed(Reason.INFERENCE_READY, f"{count} of {count} replicas answer")
    conditions = ((deployment or {}).get("status") or {}).get("conditions") or ()
    refused = by_type(conditions).get("ReplicaFailure", {})
    if refused.get("status") == "True":
        return wrong(Reason.PODS_REFUSED, f"the API server refuses the pods: {refused.get('message', '')}")
    living = [pod for pod in pods if not pod.deleting and pod.phase not in ("Failed", "Succeeded")]
    found = trouble(living, pods, now=now)
    if found is not None and found.status == "False":
        return found
    doing = next((progress(pod) for pod in living if not is_true(pod.conditions, "Ready")), "")
    if doing and (evicted := _evicted_lately(pods, instead=doing, now=now)):
        return evicted
    told = f"{ready} of {count} replicas answer; {doing or 'the pods are being created'}"
    return found or waiting(Reason.INFERENCE_PENDING, told)


def _answering(deployment: Manifest) -> int:
    """Replicas that are ready and of the wanted template; 0 until the controller has seen what is wanted."""
    status, meta = deployment.get("status") or {}, deployment["metadata"]
    if status.get("observedGeneration", 0) < meta.get("generation", 0):
        return 0
    updated, ready = int(status.get("updatedReplicas", 0)), int(status.get("readyReplicas", 0))
    old = max(0, int(status.get("replicas", 0)) - updated)
    return max(0, min(updated, ready - old))


def trouble(living: Sequence[Pod], pods: Sequence[Pod], *, now: datetime) -> Finding | None:
    """The first rule that any pod meets. Pods that have failed explain only what no living one does."""
    for rule in RULES:
        for pod in living:
            if found := rule(pod):
                return found
    for pod in living:
        if found := _unschedulable(pod, making_room=any(p.deleting for p in pods), now=now):
            return found
        if found := _not_mounted(pod, now=now):
            return found
        if found := _probe_failing(pod, now=now):
            return found
    return next((found for pod in pods if not living and (found := _evicted(pod))), None)


def _unschedulable(pod: Pod, *, making_room: bool, now: datetime) -> Finding | None:
    """While an old pod still ends, the new one has to wait for its GPUs."""
    scheduled = pod.conditions.get("PodScheduled", {})
    if scheduled.get("status") != "False" or making_room:
        return None
    since = moment(scheduled["lastTransitionTime"]) if "lastTransitionTime" in scheduled else now
    left = SCHEDULING_SECONDS - (now - since).total_seconds()
    if left > 0:
        return waiting(Reason.INFERENCE_PENDING, f"Pod {pod.name} waits for a node", look_again=left + 1)
    return wrong(Reason.UNSCHEDULABLE, f"Pod {pod.name} fits on no node: {scheduled.get('message', '')}")


def _probe_failing(pod: Pod, *, now: datetime) -> Finding | None:
    """The kubelet tells in events alone what a probe was answered; since when the pod is not ready is in its status."""
    unready = next((c for c in pod.containers if c.runs and c.started and not c.ready and not c.init), None)
    since = pod.conditions.get("ContainersReady", {}).get("lastTransitionTime")
    if unready is None or not since:
        return None
    if (left := PROBE_SECONDS - (now - moment(since)).total_seconds()) > 0:
        return waiting(Reason.INFERENCE_PENDING, f"{progress(pod)}", look_again=left + 1)
    told = f"Pod {pod.name}, container {unready.name} has not passed its readiness probe since {since}"
    return wrong(Reason.PROBE_FAILING, told, cure=f"kubectl describe pod {pod.name}, kubectl logs {pod.name}")


def _not_mounted(pod: Pod, *, now: datetime) -> Finding | None:
    """A kubelet tells in events alone which volume it cannot mount; that it has made no sandbox is in the status."""
    scheduled, sandbox = pod.conditions.get("PodScheduled", {}), pod.conditions.get("PodReadyToStartContainers", {})
    if scheduled.get("status") != "True" or sandbox.get("status") != "False" or not pod.secrets:
        return None
    since = moment(scheduled["lastTransitionTime"]) if "lastTransitionTime" in scheduled else now
    if (left := MOUNT_SECONDS - (now - since).total_seconds()) > 0:
        return waiting(Reason.INFERENCE_PENDING, f"Pod {pod.name} is being set up", look_again=left + 1)
    told = f"Pod {pod.name} has not got its volumes for {MOUNT_SECONDS:.0f} s"
    one = len(pod.secrets) == 1
    named = f"Secret {pod.secrets[0]} exists and has" if one else f"Secrets {', '.join(pod.secrets)} exist and have"
    return wrong(Reason.VOLUME_NOT_MOUNTED, told, cure=f"see whether {named} a .dockerconfigjson")


def _evicted(pod: Pod, *, instead: str = "", look_again: float | None = None) -> Finding | None:
    if pod.reason != "Evicted":
        return None
    told = f"Pod {pod.name} was evicted from Node {pod.node_name}: {pod.message.strip()}"
    return wrong(Reason.POD_EVICTED, f"{told.rstrip('.')}. {instead}" if instead else told, look_again=look_again)


def _evicted_lately(pods: Sequence[Pod], *, instead: str, now: datetime) -> Finding | None:
    """A pod that is there in the place of an evicted one knows nothing of that, and may well end in the same way."""
    for pod in sorted(pods, key=lambda pod: (pod.created_at, pod.name), reverse=True):
        ends = [container.ended.at for container in pod.containers if container.ended and container.ended.at]
        left = EVICTION_SECONDS - (now - max(ends)).total_seconds() if ends else 0.0
        if left > 0 and (found := _evicted(pod, instead=instead, look_again=left + 1)):
            return found
    return None


def _not_started(pod: Pod) -> Finding | None:
    for container in pod.containers:
        if container.waits in WAITS:
            reason, cure = WAITS[container.waits]
            if reason is Reason.IMAGE_PULL_ERROR and any(words in container.waits_message for words in DENIED):
                reason, cure = Reason.IMAGE_PULL_DENIED, MAY_PULL
            if cure is SEE_IMAGE and PRESET_IMAGE in container.image:
                cure += CHOSEN
            said = _quoted(_cause(container.waits_message) or container.waits)
            what = f"Pod {pod.name}, container {container.name}, image {container.image}"
            return wrong(reason, f"{what}: {said}", cure=cure)
    return None


def _cause(message: str) -> str:
    """The kubelet's cause: alone at a try, after "Back-off pulling image …: ErrImagePull: " between tries. Without what
    gRPC puts before it."""
    return RPC.sub("", message.rpartition("ErrImagePull: ")[2])


def _failing(pod: Pod) -> Iterator[Container]:
    """Containers that ended badly and have not been ready since."""
    for container in pod.containers:
        badly = container.ended is not None and container.ended.exit_code != 0
        if not container.ready and (badly or container.waits == "CrashLoopBackOff"):
            yield container


def _out_of_memory(pod: Pod) -> Finding | None:
    for container in _failing(pod):
        if container.ended is not None and container.ended.reason == "OOMKilled":
            told = f"Pod {pod.name}, container {container.name} was killed: out of memory"
            return wrong(Reason.OUT_OF_MEMORY, told, cure="take a larger instanceType")
    return None


def _out_of_gpu_memory(pod: Pod) -> Finding | None:
    for container in _failing(pod):
        if container.ended is not None and any(words in container.ended.message for words in GPU_MEMORY_WORDS):
            told = f"Pod {pod.name}, container {container.name}: {last_line(container.ended.message)}"
            return wrong(Reason.GPU_OUT_OF_MEMORY, told, cure="take an instanceType with more GPU memory")
    return None


def _not_fetched(pod: Pod) -> Finding | None:
    """The model or an adapter. The kubelet tries again by itself, ever more seldom."""
    for container in _failing(pod):
        known = MODEL_FAILURES if container.name == DOWNLOADER else {}
        known = ADAPTER_FAILURES if container.name.startswith(FETCHERS) else known
        ended = container.ended
        if ended is not None and ended.exit_code in known:
            reason, cure = known[ExitCode(ended.exit_code)]
            said = last_line(ended.message).removeprefix(f"{reason.value}: ")
            return wrong(reason, f"Pod {pod.name}: {said}", cure=cure)
    return None


def _crashed(pod: Pod) -> Finding | None:
    for container in _failing(pod):
        ended = container.ended
        code = f" with exit code {ended.exit_code}" if ended else ""
        said = last_line(ended.message) if ended else ""
        told = f"Pod {pod.name}, container {container.name} ended{code}" + (f": {said}" if said else "")
        if ended is not None and ended.exit_code == KILLED and not said:
            told += ": it was killed, as after a failed liveness or startup probe"
        return wrong(Reason.CRASH_LOOP, told, cure=f"kubectl logs --previous {pod.name}")
    return None


RULES: tuple[Rule, ...] = (_not_started, _not_fetched, _out_of_memory, _out_of_gpu_memory, _crashed)
"""The more particular first: a container that ran out of memory has crashed, too."""


def progress(pod: Pod) -> str:
    """How far a pod is that nothing is wrong with."""
    if not is_true(pod.conditions, "PodScheduled"):
        return f"Pod {pod.name} waits for a node"
    if any(container.started for container in pod.containers if container.runs and not container.init):
        return f"Pod {pod.name} has started; its readiness probe has not passed yet"
    if any(container.runs for container in pod.containers if container.name == DOWNLOADER):
        return f"Pod {pod.name} fetches the model from the Hub{_far(pod)}"
    if any(container.runs for container in pod.containers):
        return f"Pod {pod.name} loads the model{_far(pod)}"
    return f"Pod {pod.name} gets its image"


def _far(pod: Pod) -> str:
    return f": {pod.told}" if pod.told else ""


def last_line(text: str) -> str:
    """The last line of a log that says anything, cut to what a status can hold."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _quoted(lines[-1]) if lines else ""


def _quoted(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST_QUOTE else f"{words[:LONGEST_QUOTE]}…"
