"""The quick start: rows in, a tuned model behind a Service out; and what the operator says on the way."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import ROOT, LocalCluster, eventually
from tests.system.conftest import condition, ready

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]  # it trains, on whatever this machine has left
EXAMPLE = ROOT / "examples/03-tune-and-serve/workspace.yaml"
STEPS = 24
"""Half of the example's: the style is learnt by then, the rest is polish."""
HELD_OUT = ("What is a bridge?", "What is the capital of France?")
"""Questions that the training data does not have."""


def example(path: Path, name: str, *, serve: bool, steps: int = STEPS) -> str:
    """The example under another name, with fewer steps."""
    workspace, config = yaml.safe_load_all(path.read_text())
    workspace["metadata"]["name"] = config["metadata"]["name"] = workspace["tuning"]["config"] = name
    workspace["tuning"]["serve"] = serve
    workspace["tuning"]["output"]["image"] = f"10.244.255.1:5000/tuned/{name}:1"
    content = yaml.safe_load(config["data"]["training_config.yaml"])
    content["training_config"]["TrainingArguments"]["max_steps"] = steps
    config["data"]["training_config.yaml"] = yaml.safe_dump(content)
    return yaml.safe_dump_all([config, workspace])


def ask(cluster: LocalCluster, name: str, question: str) -> str:
    address = cluster.get("service", name)["spec"]["clusterIP"]
    body = {
        "prompt": question,
        "return_full_text": False,
        "generate_kwargs": {"do_sample": False, "max_length": 100},
    }
    answer: dict[str, Any] = cluster.http(f"http://{address}/chat", method="POST", body=body, timeout=120)
    return str(answer["Result"])


def told(cluster: LocalCluster, name: str, type: str) -> str:
    found = condition(cluster.get("workspace", name), type)
    return f"{found.get('status')} {found.get('reason')}: {found.get('message')}"


def test_a_tuning_workspace_is_trained_published_and_served_and_leaves_nothing(cluster: LocalCluster) -> None:
    name = "house"
    cluster.apply(example(EXAMPLE, name, serve=True))
    eventually(lambda: "step" in told(cluster, name, "TuningSucceeded"), within=600, what="progress in the status")
    eventually(lambda: ready(cluster, name), within=600, what="WorkspaceReady")

    row = cluster.kubectl("get", "workspace", name).splitlines()[1].split()
    assert row[:5] == [name, "Standard_D4s_v5", "True", "True", "True"]
    status = cluster.get("workspace", name)["status"]["tuning"]
    assert status["image"] == f"10.244.255.1:5000/tuned/{name}:1"
    assert status["digest"].startswith("sha256:")
    assert (status["step"], status["steps"]) == (STEPS, STEPS), "its last words, however quickly it was over"
    ports = [(p["port"], p["protocol"]) for p in cluster.get("service", name)["spec"]["ports"]]
    assert ports == [(80, "TCP"), (29500, "TCP")]
    for question in HELD_OUT:
        answer = ask(cluster, name, question)
        assert answer.startswith("Ahoy! "), answer
        assert answer.endswith("Fair winds from the harbour desk."), answer

    served_elsewhere(cluster, image=status["image"])
    cluster.kubectl("delete", "workspace", name, "--timeout=240s")
    assert cluster.items("machines", "-l", f"kaito.sh/workspace={name}") == []
    eventually(lambda: cluster.items("jobs", "-l", f"kaito.sh/workspace={name}") == [], within=120, what="no Job")
    eventually(lambda: cluster.items("pods", "-l", f"kaito.sh/workspace={name}") == [], within=180, what="no pod")


def served_elsewhere(cluster: LocalCluster, *, image: str) -> None:
    """Another Workspace serves the published adapter by its name, and the base model answers otherwise."""
    adapter = {"source": {"name": "style", "image": image, "imagePullSecrets": ["registry-login"]}, "strength": "1.0"}
    workspace: dict[str, Any] = {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "borrowed", "namespace": "default"},
        "resource": {"instanceType": "Standard_D2s_v5", "labelSelector": {"matchLabels": {"app": "borrowed"}}},
        "inference": {"preset": {"name": "smollm2-135m-instruct"}, "adapters": [adapter]},
    }
    cluster.apply(yaml.safe_dump(workspace))
    eventually(lambda: ready(cluster, "borrowed"), within=300, what="WorkspaceReady")
    assert ask(cluster, "borrowed", HELD_OUT[1]).startswith("Ahoy! ")
    del workspace["inference"]["adapters"]
    cluster.apply(yaml.safe_dump(workspace))
    eventually(lambda: "Ahoy" not in _answer(cluster), within=300, what="the base model's own manner")
    cluster.kubectl("delete", "workspace", "borrowed", "--timeout=240s")


def _answer(cluster: LocalCluster) -> str:
    """What is answered now; "Ahoy" as long as nobody does."""
    return ask(cluster, "borrowed", HELD_OUT[1]) if ready(cluster, "borrowed") else "Ahoy"


@pytest.mark.badinput
def test_what_is_wrong_with_a_tuning_is_told_in_its_own_words(cluster: LocalCluster) -> None:
    manifests = list(yaml.safe_load_all(example(EXAMPLE, "broken", serve=False)))
    manifests[1]["tuning"]["input"]["urls"] = ["http://10.244.255.1:8090/03-tune-and-serve/data/no-such.jsonl"]
    cluster.apply(yaml.safe_dump_all(manifests))
    eventually(lambda: "DownloadRefused" in told(cluster, "broken", "JobStarted"), within=300, what="the reason")
    assert "404" in told(cluster, "broken", "WorkspaceReady")
    manifests[1]["tuning"]["input"]["urls"] = ["http://127.0.0.1/rows.jsonl"]
    cluster.apply(yaml.safe_dump_all(manifests))
    eventually(
        lambda: "this machine itself" in told(cluster, "broken", "WorkspaceReady"),
        within=300,
        what="the guard's reason",
    )
    cluster.kubectl("delete", "workspace", "broken", "--timeout=240s")


@pytest.mark.badinput
def test_a_configuration_is_judged_before_anything_is_bought(cluster: LocalCluster) -> None:
    manifests = list(yaml.safe_load_all(example(EXAMPLE, "mistaken", serve=False)))
    manifests[0]["data"]["training_config.yaml"] = "training_config: {LoraConfg: {}}"
    cluster.apply(yaml.safe_dump_all(manifests))
    eventually(lambda: "did you mean LoraConfig" in told(cluster, "mistaken", "WorkspaceReady"), within=120, what="it")
    assert cluster.items("machines", "-l", "kaito.sh/workspace=mistaken") == []
    cluster.kubectl("delete", "workspace", "mistaken", "--timeout=240s")
