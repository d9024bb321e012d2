"""What keeps the model from answering: from pods and containers as the kubelet tells of them to the leaf."""

from typing import Any

import pytest

from kaito_operator.workspace.machines import machine_name
from tests.support.builders import (
    UID,
    a_container,
    a_node,
    a_pod,
    a_ready_machine,
    a_workspace,
    condition,
    rolled_out,
    stored,
)
from tests.support.planning import applied, conditions, planned

FIRST = machine_name(UID, slot=0, attempt=1)
NODES = [a_ready_machine(FIRST, node="n"), a_node("n", held_by="chat", pool=FIRST)]
POD = "Pod chat-6d9f-x2x4z"
IMAGE = "kaito/kaito-smollm2-135m-instruct:0.1.0"
WHAT = f"{POD}, container inference"
PULL = (
    "see whether the image exists and imagePullSecrets may pull it; a preset's image is as presetRegistryName, "
    "presetVersion and modelFiles of the operator's chart say"
)
MAY_PULL = "name a Secret that may pull it in imagePullSecrets, or give the nodes access to the registry"
NO_LOGIN = "repository does not exist or may require authorization: authorization failed: no basic auth credentials"


def inference(*pods: dict[str, Any], status: dict[str, Any] | None = None) -> tuple[str, str, str]:
    """InferenceReady of a Workspace whose Deployment is there and not available."""
    began = planned(a_workspace(), *NODES)
    counts = status or {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}
    deployment = {**rolled_out(applied(began, "Deployment")[0]), "status": counts}
    service = stored(applied(began, "Service")[0])
    return conditions(planned(a_workspace(), *NODES, service, deployment, *pods))["InferenceReady"]


def with_container(**state: Any) -> dict[str, Any]:
    return a_pod(node="n", phase="Running", containers=[a_container(**state)])


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return a_pod(node="n", containers=[a_container(waiting={"reason": reason, "message": message})])


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "message": message}


TEN_SECONDS_AGO = "2026-01-02T11:59:50Z"
KEY_ERROR = ended(3, "Traceback (most recent call last):\nKeyError: 'x'\n")
GRPC = "rpc error: code = NotFound desc = failed to resolve reference"
BACK_OFF = f'Back-off pulling image "{IMAGE}": ErrImagePull: {GRPC}: not found'
A_MINUTE_AGO = "2026-01-02T11:59:00Z"


def unready(since: str) -> dict[str, Any]:
    return condition("ContainersReady", "False", "ContainersNotReady", since=since)


def unplaced(message: str) -> dict[str, Any]:
    return a_pod(conditions=[condition("PodScheduled", "False", "Unschedulable", message, since=TEN_SECONDS_AGO)])


TROUBLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "an image that is not there": (
        waits("ErrImagePull", f"{GRPC}: not found"),
        "ImagePullError",
        f"{WHAT}, image {IMAGE}: failed to resolve reference: not found. What to do: {PULL}",
    ),
    "the same between two tries": (
        waits("ImagePullBackOff", BACK_OFF),
        "ImagePullError",
        f"{WHAT}, image {IMAGE}: failed to resolve reference: not found. What to do: {PULL}",
    ),
    "an image name that is none": (
        waits("InvalidImageName", "couldn't parse"),
        "ImagePullError",
        f"{WHAT}, image {IMAGE}: couldn't parse. What to do: write the image as registry/repository:tag",
    ),
    "a Secret that is not there": (
        waits("CreateContainerConfigError", 'secret "hf" not found'),
        "ContainerStartError",
        f'{WHAT}, image {IMAGE}: secret "hf" not found. '
        "What to do: see whether the Secrets and ConfigMaps it names exist",
    ),
    "a crash, while it waits to be started again": (
        with_container(waiting={"reason": "CrashLoopBackOff"}, before=KEY_ERROR),
        "ContainerCrashLoopBackOff",
        f"{WHAT} ended with exit code 3: KeyError: 'x'. What to do: kubectl logs --previous chat-6d9f-x2x4z",
    ),
    "the same crash, while it runs again": (
        with_container(restarts=1, before=KEY_ERROR),
        "ContainerCrashLoopBackOff",
        f"{WHAT} ended with exit code 3: KeyError: 'x'. What to do: kubectl logs --previous chat-6d9f-x2x4z",
    ),
    "the same crash, at the moment": (
        with_container(terminated=KEY_ERROR),
        "ContainerCrashLoopBackOff",
        f"{WHAT} ended with exit code 3: KeyError: 'x'. What to do: kubectl logs --previous chat-6d9f-x2x4z",
    ),
    "a server that ends without an error, again and again": (
        with_container(waiting={"reason": "CrashLoopBackOff"}, before=ended(0, "", "Completed")),
        "ContainerCrashLoopBackOff",
        f"{WHAT} ended with exit code 0. What to do: kubectl logs --previous chat-6d9f-x2x4z",
    ),
    "too little memory": (
        with_container(restarts=1, before=ended(137, "", "OOMKilled")),
        "ContainerOOMKilled",
        f"{WHAT} was killed: out of memory. What to do: take a larger instanceType",
    ),
    "too little memory on the card": (
        with_container(restarts=1, before=ended(1, "torch.OutOfMemoryError: CUDA out of memory.")),
        "GPUOutOfMemory",
        f"{WHAT}: torch.OutOfMemoryError: CUDA out of memory. What to do: take an instanceType with more GPU memory",
    ),
    "an image that may not be pulled": (
        waits("ErrImagePull", f'failed to pull and unpack image "{IMAGE}": 401 Unauthorized'),
        "ImagePullDenied",
        f'{WHAT}, image {IMAGE}: failed to pull and unpack image "{IMAGE}": 401 Unauthorized. What to do: {MAY_PULL}',
    ),
    "an image for whose registry there is no password": (
        waits("ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: pull access denied, {NO_LOGIN}'),
        "ImagePullDenied",
        f"{WHAT}, image {IMAGE}: pull access denied, {NO_LOGIN}. What to do: {MAY_PULL}",
    ),
    "a kill without words": (
        with_container(restarts=1, before=ended(137)),
        "ContainerCrashLoopBackOff",
        f"{WHAT} ended with exit code 137: it was killed, as after a failed liveness or startup probe. "
        "What to do: kubectl logs --previous chat-6d9f-x2x4z",
    ),
    "a readiness probe that fails for a minute": (
        a_pod(node="n", containers=[a_container(started=True)], conditions=[unready(A_MINUTE_AGO)]),
        "ProbeFailing",
        f"{WHAT} has not passed its readiness probe since {A_MINUTE_AGO}. "
        "What to do: kubectl describe pod chat-6d9f-x2x4z, kubectl logs chat-6d9f-x2x4z",
    ),
    "a taint": (
        unplaced("0/1 nodes are available: 1 node(s) had untolerated taint(s)."),
        "Unschedulable",
        f"{POD} fits on no node: 0/1 nodes are available: 1 node(s) had untolerated taint(s).",
    ),
    "too few GPUs": (
        unplaced("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
        "Unschedulable",
        f"{POD} fits on no node: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    ),
    "an affinity": (
        unplaced("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
        "Unschedulable",
        f"{POD} fits on no node: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    ),
    "no node for ten seconds": (
        a_pod(conditions=[condition("PodScheduled", "False", "Unschedulable", "0/2 available", since=TEN_SECONDS_AGO)]),
        "Unschedulable",
        f"{POD} fits on no node: 0/2 available",
    ),
    "an eviction, and no other pod": (
        a_pod(node="n", phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage."),
        "PodEvicted",
        f"{POD} was evicted from Node n: The node was low on resource: ephemeral-storage.",
    ),
}


@pytest.mark.parametrize("since", [TEN_SECONDS_AGO, A_MINUTE_AGO, "2026-01-02T09:00:00Z"])
def test_a_step_before_the_server_may_take_hours_and_is_asked_by_no_probe(since: str) -> None:
    """The kubelet says of an init container that runs that it has started and is not ready."""
    pod = a_pod(node="n", containers=[a_container(waiting={"reason": "PodInitializing"})], conditions=[unready(since)])
    pod["status"]["initContainerStatuses"] = [{**a_container(started=True), "name": "model"}]
    told = f"0 of 1 replicas answer; {POD} fetches the model from the Hub"
    assert inference(pod) == ("Unknown", "WorkspaceInferenceStatusPending", told)


READ = "reading r.io/team/style: the registry answers 401 (UNAUTHORIZED)"
MAY_READ = "correct the adapter's image, or name a Secret that may read it in its source.imagePullSecrets"
FETCHED = {
    "an adapter that its registry does not give": (67, f"DownloadRefused: {READ}", "DownloadRefused", READ, MAY_READ),
    "a registry that does not answer": (
        66, "DownloadFailed: 503 five times", "DownloadFailed", "503 five times",
        "see whether the nodes reach the registry",
    ),
    "an image without an adapter": (
        65, "DataInvalid: r.io/x has no files in /data: build it with some there", "DataInvalid",
        "r.io/x has no files in /data: build it with some there", "name an image that has an adapter in /data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FETCHED)
def test_an_adapter_that_cannot_be_fetched_is_told_with_what_to_write(case: str) -> None:
    code, words, reason, said, cure = FETCHED[case]
    init = {**a_container(waiting={"reason": "CrashLoopBackOff"}, before=ended(code, words)), "name": "adapter-0"}
    pod = a_pod(node="n", containers=[a_container(waiting={"reason": "PodInitializing"})])
    pod["status"]["initContainerStatuses"] = [init]
    assert inference(pod) == ("False", reason, f"{POD}: {said}. What to do: {cure}")


@pytest.mark.parametrize("case", TROUBLE)
def test_what_is_wrong_with_a_pod_is_named(case: str) -> None:
    pod, reason, message = TROUBLE[case]
    assert inference(pod) == ("False", reason, message)


PROGRESS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no pod yet": ([], "the pods are being created"),
    "the scheduler has not looked": ([a_pod()], f"{POD} waits for a node"),
    "the image comes": ([waits("ContainerCreating")], f"{POD} gets its image"),
    "the model loads": ([a_pod(node="n", containers=[a_container()])], f"{POD} loads the model"),
    "started, not ready": (
        [a_pod(node="n", containers=[a_container(started=True)])],
        f"{POD} has started; its readiness probe has not passed yet",
    ),
}


@pytest.mark.parametrize("case", PROGRESS)
def test_what_takes_its_time_is_no_failure(case: str) -> None:
    pods, told = PROGRESS[case]
    assert inference(*pods) == ("Unknown", "WorkspaceInferenceStatusPending", f"0 of 1 replicas answer; {told}")


def test_a_server_that_has_just_started_is_given_a_minute_to_be_ready() -> None:
    young = a_pod(node="n", containers=[a_container(started=True)], conditions=[unready("2026-01-02T11:59:30Z")])
    assert inference(young)[:2] == ("Unknown", "WorkspaceInferenceStatusPending")


def test_a_pod_without_a_node_is_given_ten_seconds() -> None:
    unplaced = condition("PodScheduled", "False", "Unschedulable", "0/2", since="2026-01-02T11:59:55Z")
    assert inference(a_pod(conditions=[unplaced]))[:2] == ("Unknown", "WorkspaceInferenceStatusPending")


def test_a_new_pod_may_wait_for_the_gpus_of_the_old_one() -> None:
    unplaced = condition("PodScheduled", "False", "Unschedulable", "insufficient nvidia.com/gpu")
    old = a_pod("chat-old", node="n", phase="Running", containers=[a_container(ready=True)], deleting=True)
    assert inference(a_pod(conditions=[unplaced]), old)[:2] == ("Unknown", "WorkspaceInferenceStatusPending")


def test_an_eviction_of_the_past_does_not_hide_what_is_now() -> None:
    evicted = a_pod("chat-a", node="n", phase="Failed", reason="Evicted")
    loading = a_pod("chat-b", node="n", containers=[a_container()])
    assert inference(evicted, loading)[2] == "0 of 1 replicas answer; Pod chat-b loads the model"


def evicted(at: str) -> dict[str, Any]:
    """A pod that took too much, as a kubelet leaves it."""
    container = a_container(terminated={**ended(143), "finishedAt": at})
    message = 'Usage of EmptyDir volume "cache" exceeds the limit "1Gi". '
    return a_pod("chat-a", node="n", phase="Failed", reason="Evicted", message=message, containers=[container])


def test_the_pod_in_the_place_of_one_that_was_just_evicted_does_not_hide_why() -> None:
    loading = a_pod("chat-b", node="n", containers=[a_container()])
    told = 'Pod chat-a was evicted from Node n: Usage of EmptyDir volume "cache" exceeds the limit "1Gi"'
    assert inference(evicted(A_MINUTE_AGO), loading) == ("False", "PodEvicted", f"{told}. Pod chat-b loads the model")
    assert inference(evicted("2026-01-02T11:54:59Z"), loading)[:2] == ("Unknown", "WorkspaceInferenceStatusPending")
    crashes = a_pod("chat-b", node="n", phase="Running", containers=[a_container(restarts=1, before=KEY_ERROR)])
    assert inference(evicted(A_MINUTE_AGO), crashes)[1] == "ContainerCrashLoopBackOff", "what is wrong now comes first"


def test_pods_that_the_api_server_refuses_are_told() -> None:
    refusal = condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota: team")
    status = {"observedGeneration": 1, "conditions": [refusal]}
    assert inference(status=status) == ("False", "PodsRefused", "the API server refuses the pods: exceeded quota: team")


def test_a_long_last_line_is_cut() -> None:
    pod = a_pod(node="n", containers=[a_container(restarts=1, before=ended(1, "x" * 2000))])
    assert len(inference(pod)[2]) < 500


def test_pods_of_other_workloads_of_the_workspace_do_not_count() -> None:
    job = a_pod("chat-tuning", node="n", containers=[a_container(restarts=1, before=ended(1, "no data"))])
    job["metadata"]["labels"]["app.kubernetes.io/component"] = "tuning"
    assert inference(job) == (
        "Unknown",
        "WorkspaceInferenceStatusPending",
        "0 of 1 replicas answer; the pods are being created",
    )
