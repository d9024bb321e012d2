"""What keeps a model from answering, as a real kubelet and a real scheduler tell of it, read off the status.

Not here, for this cluster's runtime cannot make them honestly; ``test_why_no_answer`` and
``test_why_no_machine`` have each as a kubelet records it:

- pull denied: images are a table, so one is there or not found; no registry is asked that could deny.
- OOMKilled: a container here is a process without a memory limit of its own, so the kernel would end anybody.
- evicted, disk pressure: the disk is the machine's own, so these kubelets are told never to evict.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster.images import OPERATOR, SHELL
from tests.support.cluster import LocalCluster, eventually
from tests.system.conftest import condition, ready

pytestmark = pytest.mark.system
EDITED, LOADS, UNREADY, LABEL = "why-not", "why-loading", "why-unready", "diagnosed"
WITHIN = 90.0
SLOWLY = 180.0
"""A machine is bought, and a probe has failed for a minute, before it is told."""
PENDING = "WorkspaceInferenceStatusPending"
"""Nothing is wrong so far: the condition is neither True nor False."""
LAST_WORDS = {"terminationMessagePolicy": "FallbackToLogsOnError"}
LOADING = json.dumps({"status": "loading", "progress": "weights 3 of 8 GiB, 12 s"})
SERVES = f"echo '{LOADING}' > /tmp/readyz; exec python -m http.server 5000 --directory /tmp"
NEVER = {"httpGet": {"path": "/not-there", "port": 5000}, "periodSeconds": 2, "failureThreshold": 1000}


def container(*script: str, **others: Any) -> dict[str, Any]:
    return {"name": "inference", "image": SHELL, "command": ["sh", "-c", "; ".join(script)], **LAST_WORDS, **others}


def server(**probe: Any) -> dict[str, Any]:
    """What answers on KAITO's port, but never what this probe asks for."""
    volume = {"name": "tmp", "emptyDir": {}}
    mounted = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    return {"containers": [container(SERVES, image=OPERATOR, **mounted, **probe)], "volumes": [volume]}


Case = tuple[dict[str, Any], str, tuple[str, ...]]
CASES: dict[str, Case] = {
    "an image that is not there": (
        {"containers": [container("true", image="example.com/none:1")]},
        "ImagePullError",
        ("container inference, image example.com/none:1", "not found"),
    ),
    "a crash": (
        {"containers": [container("echo KeyError: x >&2", "exit 3")]},
        "ContainerCrashLoopBackOff",
        ("container inference ended with exit code 3: KeyError: x", "kubectl logs --previous"),
    ),
    "a card that is too small": (
        {"containers": [container("echo torch.OutOfMemoryError: CUDA out of memory. >&2", "exit 1")]},
        "GPUOutOfMemory",
        ("torch.OutOfMemoryError: CUDA out of memory.", "more GPU memory"),
    ),
    "a node that the template does not want": (
        {"containers": [container("sleep 1000")], "nodeSelector": {"nowhere": "yes"}},
        "Unschedulable",
        ("fits on no node", "node affinity/selector"),
    ),
    "more GPUs than any node has": (
        {"containers": [container("sleep 1000", resources={"limits": {"nvidia.com/gpu": "1"}})]},
        "Unschedulable",
        ("fits on no node", "Insufficient nvidia.com/gpu"),
    ),
    "a Secret that is not there": (
        {"containers": [container("true", envFrom=[{"secretRef": {"name": "no-such"}}])]},
        "ContainerStartError",
        ('secret "no-such" not found',),
    ),
}
"""On one node, one after another: the template is edited."""
SLOW: dict[str, Case] = {
    LOADS: (server(startupProbe=NEVER), PENDING, ("loads the model: weights 3 of 8 GiB",)),
    UNREADY: (server(readinessProbe=NEVER), "ProbeFailing", ("has not passed its readiness probe since",)),
}
"""On a machine each, meanwhile."""


def workspace(name: str, spec: dict[str, Any], *, instance_type: str) -> str:
    """A Workspace of the user's own template, as JSON, which is YAML."""
    return json.dumps(
        {
            "apiVersion": "kaito.sh/v1alpha1",
            "kind": "Workspace",
            "metadata": {"name": name, "namespace": "default"},
            "resource": {"instanceType": instance_type, "labelSelector": {"matchLabels": {LABEL: name}}},
            "inference": {"template": {"spec": {"terminationGracePeriodSeconds": 1, **spec}}},
        }
    )


def edit(cluster: LocalCluster, spec: dict[str, Any]) -> None:
    cluster.apply(workspace(EDITED, spec, instance_type=""))


def await_told(cluster: LocalCluster, name: str, case: Case, *, within: float) -> None:
    _, reason, says = case

    def told() -> dict[str, Any] | None:
        found = condition(cluster.get("workspace", name), "InferenceReady")
        return found if found.get("reason") == reason and all(words in found["message"] for words in says) else None

    found = eventually(told, within=within, what=f"{name}: {reason}: {says}")
    assert found["status"] == ("Unknown" if reason == PENDING else "False")


@pytest.fixture(scope="module")
def slow_ones(cluster: LocalCluster) -> Iterator[None]:
    """Begun first, for they take longest; and the node that the cluster came with, labelled for the others."""
    for name, (spec, _, _) in SLOW.items():
        cluster.apply(workspace(name, spec, instance_type="Standard_D2s_v5"))
    cluster.kubectl("label", "node", "kaito-system", f"{LABEL}={EDITED}")
    yield
    cluster.kubectl("delete", "workspace", EDITED, *SLOW, "--ignore-not-found", "--timeout=60s")
    cluster.kubectl("label", "node", "kaito-system", f"{LABEL}-")


@pytest.mark.usefixtures("slow_ones")
def test_each_cause_is_named_by_the_status(cluster: LocalCluster) -> None:
    for case in CASES.values():
        edit(cluster, case[0])
        await_told(cluster, EDITED, case, within=WITHIN)
    edit(cluster, {"containers": [container("sleep 1000")]})
    eventually(lambda: ready(cluster, EDITED), within=WITHIN, what="Ready, once it is mended")
    for name, case in SLOW.items():
        await_told(cluster, name, case, within=SLOWLY)
