"""A model by its id on the Hub: looked up by the operator, fetched by pods, tuned; a gated one answers by a token."""

from typing import Any

import pytest
import yaml

from local_cluster.hub import GATED, PUBLIC, SECRET
from tests.support.cluster import LocalCluster, eventually
from tests.system.conftest import CHAT, condition, ready
from tests.system.test_tune_and_serve import EXAMPLE, example

pytestmark = pytest.mark.system


def workspace(name: str, *, preset: str, options: str = "") -> str:
    return f"""
apiVersion: kaito.sh/v1alpha1
kind: Workspace
metadata: {{name: {name}, namespace: default}}
resource:
  instanceType: Standard_D2s_v5
  labelSelector: {{matchLabels: {{app: {name}}}}}
inference:
  preset: {{name: {preset}{options}}}
"""


def why(cluster: LocalCluster, name: str) -> dict[str, Any]:
    return condition(cluster.get("workspace", name), "WorkspaceReady")


def tuning(name: str, *, preset: str) -> str:
    """Two steps of the example's training, of another model."""
    config, manifest = yaml.safe_load_all(example(EXAMPLE, name, serve=False, steps=2))
    manifest["tuning"]["preset"]["name"] = preset
    return yaml.safe_dump_all([config, manifest])


def test_a_model_of_the_hub_is_tuned_and_a_gated_one_is_fetched_by_a_token_and_answers(cluster: LocalCluster) -> None:
    cluster.apply(tuning("schooled", preset=PUBLIC))
    cluster.apply(workspace("hubbed", preset=GATED, options=f", presetOptions: {{modelAccessSecret: {SECRET}}}"))
    eventually(lambda: ready(cluster, "hubbed"), within=300, what="WorkspaceReady")
    found = cluster.get("workspace", "hubbed")
    assert found["status"]["model"]["id"] == GATED
    assert found["status"]["estimate"]["nodes"] == 1
    address = cluster.get("service", "hubbed")["spec"]["clusterIP"]
    answer = cluster.http(f"http://{address}/chat", method="POST", body=CHAT, timeout=60)
    assert "Paris" in answer["Result"]
    eventually(lambda: ready(cluster, "schooled"), within=240, what="the tuned model is published")
    tuned = cluster.get("workspace", "schooled")["status"]
    assert tuned["model"]["id"] == PUBLIC
    assert tuned["tuning"]["image"] == "10.244.255.1:5000/tuned/schooled:1"
    assert tuned["tuning"]["digest"].startswith("sha256:")
    cluster.kubectl("delete", "workspace", "hubbed", "schooled", "--wait=false")


def test_a_gated_model_without_a_token_says_so_and_buys_nothing(cluster: LocalCluster) -> None:
    cluster.apply(workspace("gated", preset=GATED))
    eventually(lambda: why(cluster, "gated").get("reason") == "InvalidWorkspace", within=300, what="the reason")
    assert (
        "the Secret with your token for the Hub in presetOptions.modelAccessSecret" in why(cluster, "gated")["message"]
    )
    assert cluster.get("workspace", "gated")["status"]["workerNodes"] == []
    cluster.kubectl("delete", "workspace", "gated", "--wait=false")
