"""YAML in, answer out, nothing left: the main job on a real Kubernetes."""

import pytest

from tests.support.cluster import ARM, LocalCluster, eventually
from tests.system.conftest import CHAT, pools, ready, workspace_yaml

pytestmark = pytest.mark.system


def test_a_workspace_becomes_an_answering_model_and_leaves_nothing(cluster: LocalCluster) -> None:
    cluster.http(f"{ARM}/control/history", method="DELETE")
    cluster.apply(workspace_yaml("whole-way"))
    eventually(lambda: ready(cluster, "whole-way"), within=300, what="WorkspaceReady")

    table = cluster.kubectl("get", "workspace", "whole-way").splitlines()
    assert table[0].split() == ["NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
    assert table[1].split()[:5] == ["whole-way", "Standard_D2s_v5", "True", "True", "True"]
    ports = [(p["port"], p["targetPort"], p["protocol"]) for p in cluster.get("service", "whole-way")["spec"]["ports"]]
    assert ports == [(80, 5000, "TCP"), (29500, 29500, "TCP")]

    address = cluster.get("service", "whole-way")["spec"]["clusterIP"]
    answer = cluster.http(f"http://{address}/chat", method="POST", body=CHAT, timeout=60)
    assert "Paris" in answer["Result"]

    machines = cluster.items("machines")
    assert [m["metadata"]["labels"]["kaito.sh/workspace"] for m in machines] == ["whole-way"]
    assert [p["name"] for p in pools(cluster)] == [m["metadata"]["name"] for m in machines]

    cluster.kubectl("delete", "workspace", "whole-way", "--timeout=240s")
    assert cluster.items("machines") == []
    assert pools(cluster) == []
    assert [n["metadata"]["name"] for n in cluster.items("nodes")] == ["kaito-system"]
    eventually(lambda: cluster.items("deployments", "-l", "kaito.sh/workspace") == [], within=300, what="no Deployment")
    eventually(lambda: cluster.items("pods", "-l", "kaito.sh/workspace") == [], within=300, what="no pod")
    history = cluster.http(f"{ARM}/control/history")
    assert [c["status"] for c in history if c["method"] == "PUT"] == [201]


@pytest.mark.money
def test_deleting_while_the_pool_is_creating_leaves_no_pool(cluster: LocalCluster) -> None:
    cluster.http(f"{ARM}/control/boot", method="PUT", body={"seconds": 600})
    try:
        cluster.apply(workspace_yaml("changed-my-mind"))
        eventually(lambda: pools(cluster), within=300, what="a pool in Creating")
        cluster.kubectl("delete", "workspace", "changed-my-mind", "--timeout=240s")
    finally:
        cluster.http(f"{ARM}/control/boot", method="PUT", body={"seconds": 1})
    assert pools(cluster) == []
    assert cluster.items("machines") == []


MACHINE = """
apiVersion: karpenter.sh/v1alpha5
kind: Machine
metadata:
  name: byhand
  labels: {kaito.sh/workspace: nobody, kaito.sh/workspacenamespace: default}
spec:
  machineTemplateRef: {name: byhand}
  requirements:
  - {key: node.kubernetes.io/instance-type, operator: In, values: [Standard_D2s_v5]}
  resources: {requests: {storage: 30Gi}}
  startupTaints: [{key: example.com/driver, effect: NoSchedule}]
"""


@pytest.mark.money
def test_a_node_waits_for_its_startup_taints_and_who_deletes_it_deletes_machine_and_pool(cluster: LocalCluster) -> None:
    cluster.apply(MACHINE)
    waits = "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=StartupTaintsExist"
    cluster.kubectl("wait", "machine/byhand", waits, "--timeout=240s")
    node = cluster.get("machine", "byhand")["status"]["nodeName"]
    cluster.kubectl("taint", "node", node, "example.com/driver-")
    cluster.kubectl("wait", "machine/byhand", "--for=condition=Ready", "--timeout=240s")
    assert cluster.get("node", node)["metadata"]["finalizers"] == ["karpenter.sh/termination"]

    cluster.kubectl("delete", "node", node, "--timeout=240s")
    eventually(lambda: cluster.items("machines") == [], within=20, what="no Machine")
    assert pools(cluster) == []
