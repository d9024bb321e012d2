"""The charts: they lint, render to the golden YAML, hold no wildcard, and every pod is restricted."""

import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from local_cluster import binaries

ROOT = Path(__file__).parent.parent.parent
CHARTS = ("workspace", "gpu-provisioner")
AZURE = (
    "settings.azure.subscriptionId=00000000-0000-0000-0000-000000000001",
    "settings.azure.resourceGroup=group",
    "settings.azure.clusterName=cluster",
    "settings.azure.location=westeurope",
    "settings.azure.tenantId=00000000-0000-0000-0000-000000000002",
    "workloadIdentity.clientId=00000000-0000-0000-0000-000000000003",
)
VALUES: dict[str, tuple[str, ...]] = {"workspace": (), "gpu-provisioner": AZURE}
KUBERNETES = binaries.pinned("k8s.io/kubernetes")


def helm(*arguments: str) -> str:
    program = binaries.find("helm")["helm"]
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def rendered(chart: str, *more: str, file: Path | None = None) -> list[dict[str, Any]]:
    settings = [word for value in (*VALUES[chart], *more) for word in ("--set", value)]
    settings += ["--values", str(file)] if file is not None else []
    text = helm("template", chart, f"charts/{chart}", "-n", "kaito-system", "--kube-version", KUBERNETES, *settings)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_renders_to_its_golden_yaml(chart: str, golden: Any) -> None:
    golden(f"charts/{chart}", rendered(chart, "crds.install=false"))  # the CRDs are files that a test compares


def test_admission_is_off_unless_asked_for() -> None:
    assert "ValidatingWebhookConfiguration" not in {manifest["kind"] for manifest in rendered("workspace")}


def test_the_chart_makes_a_certificate_that_admission_is_answered_with() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in rendered("workspace", "webhook.enabled=true")}
    (webhook,) = by_kind["ValidatingWebhookConfiguration"]["webhooks"]
    secret, service = by_kind["Secret"], webhook["clientConfig"]["service"]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]
    certificate = x509.load_pem_x509_certificate(b64decode(secret["data"]["tls.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{service['name']}.{service['namespace']}.svc"]
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    assert {"name": "webhook", "secret": {"secretName": secret["metadata"]["name"]}} in pod["volumes"]


def test_a_certificate_of_the_users_own_is_used_as_it_is() -> None:
    manifests = rendered("workspace", "webhook.enabled=true", "webhook.certificateSecret=mine")
    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    (pod,) = (m["spec"]["template"]["spec"] for m in manifests if m["kind"] == "Deployment")
    assert {"name": "webhook", "secret": {"secretName": "mine"}} in pod["volumes"]


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_lints(chart: str) -> None:
    settings = [word for value in VALUES[chart] for word in ("--set", value)]
    assert "0 chart(s) failed" in helm("lint", f"charts/{chart}", "--kube-version", KUBERNETES, *settings)


def test_the_provisioner_says_which_value_is_missing() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        helm("template", "gp", "charts/gpu-provisioner", "--kube-version", KUBERNETES)
    assert "write --set settings.azure." in refused.value.stderr


@pytest.mark.security
@pytest.mark.parametrize("chart", CHARTS)
def test_no_rule_has_a_wildcard_or_reads_secrets(chart: str) -> None:
    rules = [rule for m in rendered(chart) if m["kind"] in ("ClusterRole", "Role") for rule in m["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "secrets" not in rule["resources"]


@pytest.mark.security
@pytest.mark.parametrize("chart", CHARTS)
def test_the_pod_meets_the_restricted_profile(chart: str) -> None:
    pods = [m["spec"]["template"]["spec"] for m in rendered(chart) if m["kind"] == "Deployment"]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert all(set(v) & {"emptyDir", "secret"} for v in pod["volumes"])
