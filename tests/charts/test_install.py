"""Helm itself against a real API server: install, take over, upgrade, uninstall, and what is left after that."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local_cluster import binaries
from tests.charts.test_charts import CHARTS, ROOT, VALUES
from tests.support.control_plane import ApiServer

pytestmark = pytest.mark.controlplane
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OWN = {"workspace": "workspaces.kaito.sh", "gpu-provisioner": "machines.karpenter.sh"}
OF_A_RELEASE = "app.kubernetes.io/part-of=kaito"
WHERE = (
    "/apis/apps/v1/deployments", "/api/v1/services", "/api/v1/configmaps", "/api/v1/serviceaccounts",
    "/apis/policy/v1/poddisruptionbudgets", "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/rbac.authorization.k8s.io/v1/roles", "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
)  # fmt: skip
SWITCHED_ON = ("networkPolicy.enabled=true", "podDisruptionBudget.enabled=true", "metrics.service=true")


class Helm:
    """helm as a user has it, with a home of the test's own."""

    def __init__(self, server: ApiServer, namespace: str, home: Path) -> None:
        self._base = [str(binaries.find("helm")["helm"]), "--kubeconfig", str(server.kubeconfig("admin"))]
        self._namespace, self._home = namespace, home

    def __call__(self, *arguments: str) -> str:
        command = [*self._base, "--namespace", self._namespace, *arguments]
        home = {"HOME": str(self._home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def left(server: ApiServer, namespace: str) -> list[str]:
    """What carries our label and belongs to this test."""
    items = [(at, item) for at in WHERE for item in server.ask("GET", f"{at}?labelSelector={OF_A_RELEASE}")["items"]]
    return [f"{at} {i['metadata']['name']}" for at, i in items if i["metadata"].get("namespace") in (namespace, None)]


def definition(server: ApiServer, chart: str) -> dict[str, Any]:
    found = server.get(f"{CRDS}/{OWN[chart]}")
    assert found is not None
    return found


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.usefixtures("crds")
def test_a_chart_is_installed_upgraded_and_uninstalled_and_leaves_only_its_definition(
    api_server: ApiServer, namespace: str, tmp_path: Path, chart: str
) -> None:
    helm = Helm(api_server, namespace, tmp_path)
    values = [word for value in VALUES[chart] for word in ("--set", value)]
    place = ("kaito-test", f"charts/{chart}", *values)
    uid = definition(api_server, chart)["metadata"]["uid"]

    helm("install", *place, "--take-ownership")  # the definition is there already, as somebody else's
    found = definition(api_server, chart)["metadata"]
    assert found["annotations"]["meta.helm.sh/release-name"] == "kaito-test"
    assert len(left(api_server, namespace)) == 6

    helm("upgrade", *place, *(word for value in SWITCHED_ON for word in ("--set", value)))
    assert len(left(api_server, namespace)) == 9
    assert json.loads(helm("status", "kaito-test", "-o", "json"))["version"] == 2

    assert OWN[chart] in helm("uninstall", "kaito-test")  # it says what it kept
    assert left(api_server, namespace) == []
    assert definition(api_server, chart)["metadata"]["uid"] == uid


@pytest.mark.usefixtures("crds")
def test_an_upgrade_keeps_the_certificate_of_admission(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    helm = Helm(api_server, namespace, tmp_path)
    place = ("kaito-test", "charts/workspace", "--set", "webhook.enabled=true", "--set", "crds.install=false")
    at = f"/api/v1/namespaces/{namespace}/secrets/kaito-workspace-webhook"
    helm("install", *place)
    try:
        first = api_server.ask("GET", at)
        helm("upgrade", *place)
        webhooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/kaito-workspace-webhook"
        (webhook,) = api_server.ask("GET", webhooks)["webhooks"]
        assert api_server.ask("GET", at)["data"] == first["data"]
        assert webhook["clientConfig"]["caBundle"] == first["data"]["ca.crt"]
    finally:
        helm("uninstall", "kaito-test")
    assert left(api_server, namespace) == []


@pytest.mark.usefixtures("crds")
def test_a_device_plugin_that_is_there_keeps_ours_away(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    helm = Helm(api_server, namespace, tmp_path)
    ours = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/kaito-workspace-nvidia-device-plugin"
    place = (
        "kaito-test",
        "charts/workspace",
        "--set",
        "nvidiaDevicePlugin.enabled=true",
        "--set",
        "crds.install=false",
    )
    helm("install", *place)
    try:
        assert api_server.get(ours) is not None
        helm("upgrade", *place)
        assert api_server.get(ours) is not None
        theirs = {
            "metadata": {"name": "nvidia-device-plugin-daemonset"},
            "spec": {
                "selector": {"matchLabels": {"app": "theirs"}},
                "template": {
                    "metadata": {"labels": {"app": "theirs"}},
                    "spec": {"containers": [{"name": "plugin", "image": "nvcr.io/nvidia/k8s-device-plugin:v0.17.0"}]},
                },
            },
        }
        at = f"/apis/apps/v1/namespaces/{namespace}/daemonsets"
        api_server.ask("POST", at, theirs)
        helm("upgrade", *place)
        assert api_server.get(ours) is None
        api_server.ask("DELETE", f"{at}/nvidia-device-plugin-daemonset")
    finally:
        helm("uninstall", "kaito-test")
