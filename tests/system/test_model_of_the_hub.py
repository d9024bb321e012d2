"""A model by its id on the Hub: looked up by the operator, fetched by the pod, answering; and one that is gated."""

import pytest

from tests.support.cluster import LocalCluster, eventually
from tests.system.conftest import CHAT, condition, ready

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


def why(cluster: LocalCluster, name: str) -> str:
    return str(condition(cluster.get("workspace", name), "WorkspaceReady").get("reason"))


def test_a_model_of_the_hub_is_looked_up_fetched_and_answers(cluster: LocalCluster) -> None:
    cluster.apply(workspace("hubbed", preset="local/smollm2"))
    eventually(lambda: ready(cluster, "hubbed"), within=300, what="WorkspaceReady")
    found = cluster.get("workspace", "hubbed")
    assert found["status"]["model"]["id"] == "local/smollm2"
    assert found["status"]["estimate"]["nodes"] == 1
    address = cluster.get("service", "hubbed")["spec"]["clusterIP"]
    answer = cluster.http(f"http://{address}/chat", method="POST", body=CHAT, timeout=60)
    assert "Paris" in answer["Result"]
    cluster.kubectl("delete", "workspace", "hubbed", "--wait=false")


def test_a_gated_model_says_so_and_buys_nothing(cluster: LocalCluster) -> None:
    cluster.apply(workspace("gated", preset="local/smollm2-gated"))
    eventually(lambda: why(cluster, "gated") == "HubGated", within=300, what="the reason")
    assert cluster.get("workspace", "gated")["status"]["workerNodes"] == []
    cluster.kubectl("delete", "workspace", "gated", "--wait=false")
