"""What keeps a model from answering, as a real kubelet and a real scheduler tell of it, read off the status."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster.images import OPERATOR, SHELL
from local_cluster.kubelet import KEPT_FREE
from local_cluster.supervisor import REGISTRY
from tests.support.cluster import LocalCluster, eventually
from tests.system.conftest import condition, ready

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]  # a dozen causes, each told when its time has come
EDITED, LABEL = "why-not", "diagnosed"
LOADS, UNREADY, EVICTED, FULL = "why-loading", "why-unready", "why-evicted", "why-full"
WITHIN = 300.0
PENDING = "WorkspaceInferenceStatusPending"
"""Nothing is wrong so far: the condition is neither True nor False."""
LAST_WORDS = {"terminationMessagePolicy": "FallbackToLogsOnError"}
LOADING = json.dumps({"status": "loading", "progress": "weights 3 of 8 GiB, 12 s"})
HOLDS = "python -c 'import time; held = bytes(1) * 200_000_000; time.sleep(1000)'"
SERVES = f"echo '{LOADING}' > /tmp/readyz; exec python -m http.server 5000 --directory /tmp"
NEVER = {"httpGet": {"path": "/not-there", "port": 5000}, "periodSeconds": 2, "failureThreshold": 1000}


def container(*script: str, **others: Any) -> dict[str, Any]:
    return {"name": "inference", "image": SHELL, "command": ["sh", "-c", "; ".join(script)], **LAST_WORDS, **others}


def server(*first: str, limit: dict[str, str] | None = None, **probe: Any) -> dict[str, Any]:
    """What answers on KAITO's port, but never what this probe asks for. ``limit``: of its volume."""
    volume = {"name": "tmp", "emptyDir": limit or {}}
    mounted = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    return {"containers": [container(*first, SERVES, image=OPERATOR, **mounted, **probe)], "volumes": [volume]}


Case = tuple[dict[str, Any], str, tuple[str, ...]]
CASES: dict[str, Case] = {
    "an image that is not there": (
        {"containers": [container("true", image="example.com/none:1")]},
        "ImagePullError",
        ("container inference, image example.com/none:1", "not found"),
    ),
    "an image that is for others": (
        {"containers": [container("true", image=f"{REGISTRY}/team/private:1")]},
        "ImagePullDenied",
        (f"image {REGISTRY}/team/private:1", "pull access denied", "imagePullSecrets"),
    ),
    "too little memory": (
        {"containers": [container(HOLDS, image=OPERATOR, resources={"limits": {"memory": "64Mi"}})]},
        "ContainerOOMKilled",
        ("container inference was killed: out of memory", "larger instanceType"),
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
    EVICTED: (
        server("head -c 3000000 /dev/zero > /tmp/cache", limit={"sizeLimit": "1Mi"}, readinessProbe=NEVER),
        "PodEvicted",
        ("was evicted from Node aks-", 'Usage of EmptyDir volume "tmp" exceeds the limit "1Mi". Pod'),
    ),
    FULL: (server(), "NodeDiskPressure", ("has DiskPressure: kubelet has disk pressure", "free some")),
}
"""On a machine each, meanwhile."""
MORE_LABELS = {FULL: {KEPT_FREE: "99"}}


def workspace(name: str, spec: dict[str, Any], *, instance_type: str) -> str:
    """A Workspace of the user's own template, as JSON, which is YAML."""
    labels = {LABEL: name, **MORE_LABELS.get(name, {})}
    return json.dumps(
        {
            "apiVersion": "kaito.sh/v1alpha1",
            "kind": "Workspace",
            "metadata": {"name": name, "namespace": "default"},
            "resource": {"instanceType": instance_type, "labelSelector": {"matchLabels": labels}},
            "inference": {"template": {"spec": {"terminationGracePeriodSeconds": 1, **spec}}},
        }
    )


def edit(cluster: LocalCluster, spec: dict[str, Any]) -> None:
    cluster.apply(workspace(EDITED, spec, instance_type=""))


def await_told(cluster: LocalCluster, name: str, case: Case, *, within: float) -> None:
    _, reason, says = case

    def told() -> dict[str, Any] | None:
        found = condition(cluster.get("workspace", name), "ResourceReady" if name == FULL else "InferenceReady")
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
    cluster.kubectl("delete", "workspace", EDITED, *SLOW, "--ignore-not-found", "--timeout=240s")
    cluster.kubectl("label", "node", "kaito-system", f"{LABEL}-")


@pytest.mark.usefixtures("slow_ones")
def test_each_cause_is_named_by_the_status(cluster: LocalCluster) -> None:
    for case in CASES.values():
        edit(cluster, case[0])
        await_told(cluster, EDITED, case, within=WITHIN)
    edit(cluster, {"containers": [container("sleep 1000")]})
    eventually(lambda: ready(cluster, EDITED), within=WITHIN, what="Ready, once it is mended")
    for name, case in SLOW.items():
        await_told(cluster, name, case, within=WITHIN)
