"""Every command that the README and the guides tell people to type is typed, where it can be, on a cluster that runs.

What ``kubectl`` and ``helm`` would change is asked of the server as a dry run; what is deployed is real, and deleted.
"""

import os
import signal
import string
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.cluster import KAITO, ROOT, LocalCluster, eventually
from tests.system.conftest import ready
from tests.test_guide import TYPED

pytestmark = pytest.mark.system
NOT_HERE = {
    "az": "there is no Azure here",
    "docker": "there is no Docker here",
    "kind": "there is no Docker here",
    "export": "it sets a variable of the next commands; see VARIABLES",
    "make": "it is a cluster or a test run of its own",
    "helm uninstall": "tests/charts/test_install.py does it",
    "kaito local up": "the cluster of this test was started by it",
    "kaito plan --model Qwen": "it asks the Hugging Face Hub, which no test does",
    "kubectl get controllerrevision chat-": "the revision's name is made up",
    "kubectl patch": "it takes the file of the command before",
    "kaito chat styled --model": "tests/system/test_tune_and_serve.py asks for an adapter by its name",
}
"""How a command begins → why it is not run."""
VARIABLES = {
    "SUBSCRIPTION": "00000000-0000-0000-0000-000000000000",
    "TENANT": "00000000-0000-0000-0000-000000000000",
    "CLIENT": "00000000-0000-0000-0000-000000000000",
    "GROUP": "kaito",
    "CLUSTER": "kaito",
    "LOCATION": "westeurope",
    "REGISTRY": "registry.example.org/team",
    "PASSWORD": "secret",
    "HF_TOKEN": "hf_secret",
}
NODES = {"my-gpu-node", "kind-control-plane"}
CHANGING = {"apply", "create", "delete", "label"}
RUNNING = [words for line, words in {" ".join(w): w for w in TYPED}.items() if not line.startswith(tuple(NOT_HERE))]


@pytest.fixture(scope="module")
def reader(cluster: LocalCluster) -> Iterator[Mapping[str, str]]:
    """The environment of somebody who reads: a cluster with the Workspace ``chat``, kubectl and helm on PATH."""
    cluster.apply((ROOT / "examples/01-chat-on-cpu/workspace.yaml").read_text())
    eventually(lambda: ready(cluster, "chat"), within=300, what="WorkspaceReady")
    kubeconfig = cluster.status()["kubeconfig"]
    path = f"{KAITO.parent}:{Path(kubeconfig).parent / 'bin'}:{os.environ['PATH']}"
    address = cluster.get("service", "chat")["spec"]["clusterIP"]
    cluster.http(f"http://{address}/healthz")
    own = {"PATH": path, "KUBECONFIG": kubeconfig, "KAITO_CLUSTER": cluster.name, "CLUSTERIP": address}
    yield {**os.environ, **VARIABLES, **own}
    cluster.run("kubectl", "delete", "workspaces", "--all", "--all-namespaces", "--timeout=3m", timeout=200)


@pytest.fixture
def space(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the command's own, so that none waits for the machines of another to be gone."""
    name = f"guide-{RUNNING.index(request.getfixturevalue('words'))}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "workspaces", "--all", "--namespace", name, "--wait=false")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def as_run(words: list[str], variables: Mapping[str, str], *, space: str) -> list[str]:
    """The command as it is run: with names of this cluster, and changing nothing but by ``kaito deploy``."""
    known = [string.Template(word).safe_substitute(variables) for word in words]
    known = ["kaito-system" if word in NODES else word for word in known]
    if ">" in known:
        known = known[: known.index(">")]
    if known[0] == "helm":
        return [*known, *([] if "--take-ownership" in known else ["--take-ownership"]), "--dry-run=server"]
    if "kubectl" in known and known[known.index("kubectl") + 1] in CHANGING:
        return [*known, *(["--namespace", space] if "create" in known else []), "--dry-run=server"]
    if known[:2] == ["kaito", "deploy"]:
        return [*known, "--namespace", space]
    if known[:2] == ["kaito", "chat"]:
        return [*known[:2], "chat", *known[3:], *([] if "--plain" in known else ["--max-tokens", "16"])]
    if known[0] == "kaito" and known[1] in {"status", "logs"}:
        return [*known[:2], "chat", *known[3:]]
    return known


@pytest.mark.parametrize("words", RUNNING, ids=lambda words: " ".join(words)[:80])
def test_a_command_of_the_guide_runs(words: list[str], reader: Mapping[str, str], space: str) -> None:
    command = as_run(words, reader, space=space)
    if "--follow" in command:
        return follows(command, reader)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=reader,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return None


def follows(command: list[str], environment: Mapping[str, str]) -> None:
    """It shows what is there, goes on, and ends at Ctrl-C."""
    minded = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(minded, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() != ""
        following.send_signal(signal.SIGINT)
        following.stdout.read()
    assert following.returncode in {0, 1}


def test_what_is_not_run_is_typed_somewhere_and_has_a_reason() -> None:
    lines = [" ".join(words) for words in TYPED]
    assert [start for start in NOT_HERE if not any(line.startswith(start) for line in lines)] == []
    assert len(RUNNING) > 30
