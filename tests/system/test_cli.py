"""The commands against a whole cluster: deployed, followed, asked, read, and its health told."""

import json
import os
import subprocess

import pytest

from tests.support.cluster import KAITO, LocalCluster, eventually
from tests.system.conftest import ready

pytestmark = pytest.mark.system
QUESTION = "What is the capital of France?"


def kaito(cluster: LocalCluster, *arguments: str, check: bool = True) -> str:
    """As a user types it: outside of the cluster's network, with its kubeconfig."""
    command = [str(KAITO), *arguments, "--kubeconfig", cluster.status()["kubeconfig"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 or not check, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout if check else done.stdout + done.stderr


def test_a_workspace_is_deployed_asked_and_read_by_the_command_line(cluster: LocalCluster) -> None:
    flags = ("--preset", "smollm2-135m-instruct", "--instance-type", "Standard_D2s_v5")
    told = kaito(cluster, "deploy", "by-command", *flags)
    try:
        assert told.endswith("kaito status by-command --watch\n")
        eventually(lambda: ready(cluster, "by-command"), within=300, what="WorkspaceReady")
        assert "Paris" in kaito(cluster, "chat", "by-command", QUESTION)
        assert "Paris" in kaito(cluster, "chat", "by-command", QUESTION, "--plain")
        unknown = kaito(cluster, "chat", "by-command", "Hi", "--model", "nobody", check=False)
        assert unknown.startswith("no answer: ")
        assert "nobody" in unknown
        assert 0 < len(kaito(cluster, "logs", "by-command", "--tail", "20").splitlines()) <= 20
        found = json.loads(kaito(cluster, "doctor", "-o", "json"))
        assert [f for f in found if f["verdict"] == "wrong"] == []
        assert {f["what"]: f["verdict"] for f in found}["workspace operator"] == "ok"
        named = subprocess.run(
            [str(KAITO), "doctor"],
            env={**{k: v for k, v in os.environ.items() if k != "KUBECONFIG"}, "KAITO_CLUSTER": cluster.name},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert named.stderr == f"(on the local cluster {cluster.name})\n", named.stdout
    finally:
        cluster.kubectl("delete", "workspace", "by-command", "--timeout=240s")
