"""What the local cluster has for tuning: volumes that outlive pods, a registry with a password, data over HTTP."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster import example_files, namespace, registry, storage
from local_cluster.images import SHELL
from local_cluster.state import ClusterDirectory
from tests.support.waiting import eventually

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster without operators; its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        kaito("up", "--bare", "--name", "around")
        yield "around"
        kaito("down", "--name", "around")


def kaito(*arguments: str, stdin: str = "") -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "kaito_cli", "local", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def inside(cluster: str, *command: str, stdin: str = "") -> str:
    return kaito("run", "--name", cluster, "--", *command, stdin=stdin)


def phase(cluster: str, name: str) -> str:
    return inside(cluster, "kubectl", "get", name, "-o", "jsonpath={.status.phase}")


def pod(name: str, script: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
            "containers": [
                {
                    "name": "shell",
                    "image": SHELL,
                    "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "results", "mountPath": "/mnt/results"}],
                }
            ],
            "volumes": [{"name": "results", "persistentVolumeClaim": {"claimName": "results"}}],
        },
    }


def test_what_a_pod_wrote_to_a_claim_is_there_for_the_next_one(cluster: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "results"},
        "spec": {
            "storageClassName": storage.CLASS,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    writer = pod("writer", "echo kept > /mnt/results/word && mkdir /mnt/results/checkpoints")
    items = {"apiVersion": "v1", "kind": "List", "items": [claim, writer]}
    inside(cluster, "kubectl", "apply", "--filename=-", stdin=json.dumps(items))
    eventually(lambda: phase(cluster, "pod/writer") == "Succeeded", within=60, what="the writer ends well")
    inside(cluster, "kubectl", "delete", "pod/writer", "--wait=true", "--grace-period=0")
    reader = pod("reader", 'test "$(cat /mnt/results/word)" = kept && test -d /mnt/results/checkpoints')
    inside(cluster, "kubectl", "apply", "--filename=-", stdin=json.dumps(reader))
    eventually(lambda: phase(cluster, "pod/reader") == "Succeeded", within=60, what="the reader finds it")
    goes_with_its_claim(cluster)


def goes_with_its_claim(cluster: str) -> None:
    """A claim stays as long as a pod uses it; then its volume is empty and free for the next."""
    volume = inside(cluster, "kubectl", "get", "pvc/results", "-o", "jsonpath={.spec.volumeName}")
    inside(cluster, "kubectl", "delete", "pod/reader", "--wait=true", "--grace-period=0")
    inside(cluster, "kubectl", "delete", "pvc/results", "--wait=true", "--timeout=60s")
    eventually(lambda: phase(cluster, f"pv/{volume}") == "Available", within=60, what="the volume is free again")
    path = ClusterDirectory.of(cluster).path / "volumes" / volume.removeprefix(f"{storage.CLASS}-")
    assert list(path.iterdir()) == []


def test_the_registry_lets_in_who_has_the_secret(cluster: str) -> None:
    secret = json.loads(inside(cluster, "kubectl", "get", "secret", registry.SECRET, "-o", "json"))
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    url = f"http://{namespace.SYSTEM_ADDRESS}:{registry.PORT}/v2/"

    def answers(*options: str) -> str:
        asked = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *options, url]
        return inside(cluster, *asked)

    eventually(lambda: answers() == "401", within=20, what="the registry answers strangers with 401")
    assert answers("--user", f"{registry.USER}:{registry.PASSWORD}") == "200"
    assert answers("--user", f"{registry.USER}:wrong") == "401"


def test_the_data_of_the_examples_is_served_and_nothing_else(cluster: str) -> None:
    base = f"http://{namespace.SYSTEM_ADDRESS}:{example_files.PORT}"
    file = next(example_files.EXAMPLES.glob("*/data/*"))
    assert inside(cluster, "curl", "--silent", f"{base}/{file.parent.parent.name}/data/{file.name}") == file.read_text()
    for path in (
        "/",
        f"/{file.parent.parent.name}/workspace.yaml",
        f"/{file.parent.parent.name}/data/../../../README.md",
    ):
        asked = [
            "curl",
            "--silent",
            "--path-as-is",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            base + path,
        ]
        assert inside(cluster, *asked) in ("403", "404"), path
