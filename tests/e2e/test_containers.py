"""The built images as real containers: both quick starts, installed, upgraded and removed by helm, and nothing left.

``make e2e`` builds the images and runs this as root. Every namespace enforces the restricted Pod Security level.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.engines.native import linear
from local_cluster import built_images, charts
from local_cluster.cgroups import hierarchies
from local_cluster.supervisor import REGISTRY
from tests.support.cluster import ARM, ROOT, LocalCluster, eventually
from tests.system.conftest import CHAT, ready
from tests.system.test_tune_and_serve import HELD_OUT, ask

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]
SPACE = charts.NAMESPACE
RELEASES = ("workspace", "gpu-provisioner")
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
WRITES_TO_ITS_ROOT = "import os; print(os.getuid(), os.listdir('/proc/1/fd') != []); open('/new', 'w')"
OURS = (
    "deployments,services,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies",
    "clusterroles,clusterrolebindings,validatingwebhookconfigurations,priorityclasses",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose containers are containerd's, without the operators; afterwards the machine is as it was."""
    before = left_on_the_machine()
    local = LocalCluster(f"e2e-{os.getpid()}")
    try:
        local.up("--bare", "--runtime", "containerd")
        yield local
    finally:
        local.down()
    assert left_on_the_machine() == before


def left_on_the_machine() -> dict[str, Any]:
    """What a cluster of containers could leave behind."""
    groups = [str(path) for root in hierarchies() for path in root.glob("kaito-*")]
    programs = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "kaito" in line],
        "addresses": Path("/proc/net/fib_trie").read_text(),
        "groups": groups,
        "processes": [line for line in programs if "containerd" in line and "/run/kaito" in line],
    }


def test_both_quick_starts_run_from_the_built_images_and_leave_nothing(cluster: LocalCluster) -> None:
    prepare(cluster)
    for chart in RELEASES:
        helm(cluster, "install", chart)
    are_restricted_containers_of_the_built_image(cluster)
    chats(cluster)
    upgrades_without_a_pause(cluster)
    cluster.run("kubectl", "delete", "workspace", "chat", "--timeout=3m", timeout=200)
    tunes_and_serves(cluster)
    cluster.run("kubectl", "delete", "workspace", "tuned", "--timeout=3m", timeout=200)
    uninstalls(cluster)


def prepare(cluster: LocalCluster) -> None:
    for grounds in charts.GROUNDS:
        cluster.apply(yaml.safe_dump(grounds))
    for space in (SPACE, "default"):
        cluster.kubectl("label", "namespace", space, RESTRICTED)


def helm(cluster: LocalCluster, verb: str, chart: str, *flags: str) -> None:
    values = {**charts.VALUES[chart], **built_images.values(REGISTRY)[chart]}
    place = (f"kaito-{chart}", f"charts/{chart}", f"--namespace={SPACE}", "--values=-", "--wait", "--timeout=2m")
    cluster.run("helm", verb, *place, *flags, stdin=json.dumps(values), timeout=150)


def are_restricted_containers_of_the_built_image(cluster: LocalCluster) -> None:
    (node,) = cluster.items("nodes")
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    for pod in cluster.items("pods", "-n", SPACE):
        name = pod["metadata"]["name"]
        (container,) = pod["status"]["containerStatuses"]
        assert container["containerID"].startswith("containerd://")
        assert container["image"].startswith(f"{REGISTRY}/{built_images.OPERATOR}")
        tried = ("exec", "-n", SPACE, name, "--", "python", "-c", WRITES_TO_ITS_ROOT)
        with pytest.raises(AssertionError, match=r"65532 True[\s\S]*Read-only file system"):
            cluster.kubectl(*tried)


def chats(cluster: LocalCluster) -> None:
    cluster.apply((ROOT / "examples/01-chat-on-cpu/workspace.yaml").read_text())
    eventually(lambda: ready(cluster, "chat"), within=400, what="WorkspaceReady")
    address = cluster.get("service", "chat")["spec"]["clusterIP"]
    answer = cluster.http(f"http://{address}/chat", method="POST", body=CHAT, timeout=120)
    assert "Paris" in answer["Result"]
    (pod,) = cluster.items("pods", "-l", "kaito.sh/workspace=chat")
    assert pod["status"]["containerStatuses"][0]["containerID"].startswith("containerd://")
    log = cluster.kubectl("logs", pod["metadata"]["name"])
    assert ("kernels of its own" in log) == linear.cpu_has_bf16(), log


def upgrades_without_a_pause(cluster: LocalCluster) -> None:
    """The operators are replaced, the model goes on answering in the pod that it had."""
    before = cluster.items("pods", "-l", "kaito.sh/workspace=chat")
    operators = {pod["metadata"]["uid"] for pod in cluster.items("pods", "-n", SPACE)}
    for chart in RELEASES:
        helm(cluster, "upgrade", chart, "--set=podDisruptionBudget.enabled=true", "--set=podLabels.upgraded=yes")
    eventually(
        lambda: operators.isdisjoint(pod["metadata"]["uid"] for pod in cluster.items("pods", "-n", SPACE)),
        within=60,
        what="new operators alone",
    )
    assert len(cluster.items("poddisruptionbudgets", "-n", SPACE)) == len(RELEASES)
    after = cluster.items("pods", "-l", "kaito.sh/workspace=chat")
    assert [pod["metadata"]["uid"] for pod in after] == [pod["metadata"]["uid"] for pod in before]
    assert after[0]["status"]["containerStatuses"][0]["restartCount"] == 0
    assert ready(cluster, "chat")


def tunes_and_serves(cluster: LocalCluster) -> None:
    cluster.apply((ROOT / "examples/03-tune-and-serve/workspace.yaml").read_text())
    eventually(lambda: ready(cluster, "tuned"), within=900, what="WorkspaceReady")
    assert cluster.get("workspace", "tuned")["status"]["tuning"]["digest"].startswith("sha256:")
    for question in HELD_OUT:
        answer = ask(cluster, "tuned", question)
        assert answer.startswith("Ahoy! "), answer
        assert answer.endswith("Fair winds from the harbour desk."), answer


def uninstalls(cluster: LocalCluster) -> None:
    """No machine, no object but what helm says it keeps: the CRDs, which go when they are deleted."""
    eventually(lambda: cluster.http(f"{ARM}/control/pools") == [], within=60, what="no agent pool")
    eventually(lambda: len(cluster.items("nodes")) == 1, within=60, what="the system node alone")
    eventually(lambda: cluster.items("pods") == [], within=60, what="no pod of a Workspace")
    for chart in RELEASES:
        cluster.run("helm", "uninstall", f"kaito-{chart}", f"--namespace={SPACE}", "--wait", "--timeout=1m", timeout=90)
    eventually(lambda: cluster.items("pods", "-n", SPACE) == [], within=60, what="no pod of the operators")
    for kinds in OURS:
        assert cluster.items(kinds, "-A", "-l", "app.kubernetes.io/part-of=kaito") == []
    for crd in ("workspaces.kaito.sh", "machines.karpenter.sh"):
        assert cluster.items(crd.partition(".")[0], "-A") == []
        cluster.kubectl("delete", "crd", crd, "--timeout=30s")
    warned = [event for event in cluster.items("events", "-A") if "violates PodSecurity" in event.get("message", "")]
    assert warned == []
