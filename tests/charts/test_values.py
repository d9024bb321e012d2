"""What operators set: it is documented, checked before anything is installed, and does what it says."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import charts, metrics_page
from tests.charts.test_charts import AZURE, CHARTS, ROOT, rendered

EVERYTHING = (
    "webhook.enabled=true", "metrics.service=true", "serviceMonitor.enabled=true", "networkPolicy.enabled=true",
    "podDisruptionBudget.enabled=true", "grafanaDashboard.enabled=true", "nvidiaDevicePlugin.enabled=true",
)  # fmt: skip
OF_BOTH = ("metrics.service=true", "serviceMonitor.enabled=true", "networkPolicy.enabled=true", "podDisruptionBudget.enabled=true")  # fmt: skip  # noqa: E501


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


@pytest.mark.parametrize("chart", CHARTS)
def test_readme_and_schema_are_up_to_date(chart: str) -> None:
    assert (ROOT / "charts" / chart / "README.md").read_text() == charts.readme(chart), "make reference"
    assert (ROOT / "charts" / chart / "values.schema.json").read_text() == charts.schema(chart), "make reference"


def leaves(defaults: Any, schema: dict[str, Any], path: tuple[str, ...] = ()) -> set[str]:
    if "properties" not in schema:
        return {".".join(path)}
    return {leaf for key, below in defaults.items() for leaf in leaves(below, schema["properties"][key], (*path, key))}


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_is_in_the_table_and_means_something(chart: str) -> None:
    directory = ROOT / "charts" / chart
    defaults = yaml.safe_load((directory / "values.yaml").read_text())
    listed = charts.values(chart)
    assert {v.path for v in listed} == leaves(defaults, json.loads(charts.schema(chart)))
    assert [v.path for v in listed if not v.meaning.endswith((".", "required."))] == []


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_is_used_by_a_template_and_every_used_value_exists(chart: str) -> None:
    text = "".join(path.read_text() for path in (ROOT / "charts" / chart / "templates").iterdir())
    used = set(re.findall(r"\.Values\.([A-Za-z.]+[A-Za-z])", text))
    known = {value.path for value in charts.values(chart)}
    assert known - {path for path in known if any(path == u or path.startswith(f"{u}.") for u in used)} == set()
    assert {u for u in used if u not in known and not any(path.startswith(f"{u}.") for path in known)} == set()


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("chart", "mistake", "told"),
    [
        ("workspace", "webook.enabled=true", "webook"),
        ("workspace", "nodeProvisioner=karpenter", "nodeProvisioner"),
        ("workspace", "image.digest=latest", "digest"),
        ("workspace", "replicaCount=two", "replicaCount"),
        ("gpu-provisioner", "settings.azure.subscription=x", "subscription"),
        ("gpu-provisioner", "settings.objects=nodes", "objects"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_is_installed(chart: str, mistake: str, told: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(chart, mistake)
    assert "values don't meet the specifications of the schema" in refused.value.stderr
    assert told in refused.value.stderr


@pytest.mark.parametrize("chart", CHARTS)
def test_the_definitions_are_installed_with_the_chart_and_outlive_it(chart: str) -> None:
    files = {d["metadata"]["name"]: d for f in ROOT.glob(f"charts/{chart}/files/crds/*.yaml") for d in [yaml.safe_load(f.read_text())]}  # fmt: skip  # noqa: E501
    made = {m["metadata"]["name"]: m for m in rendered(chart) if m["kind"] == "CustomResourceDefinition"}
    assert files
    assert {name: crd["spec"] for name, crd in made.items()} == {name: crd["spec"] for name, crd in files.items()}
    assert all(crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for crd in made.values())
    let_go = [m for m in rendered(chart, "crds.keep=false") if m["kind"] == "CustomResourceDefinition"]
    assert let_go
    assert not any("annotations" in crd["metadata"] for crd in let_go)
    without = {m["kind"] for m in rendered(chart, "crds.install=false")}
    assert "CustomResourceDefinition" not in without


@pytest.mark.parametrize(("chart", "values"), [("workspace", EVERYTHING), ("gpu-provisioner", OF_BOTH)])
def test_everything_that_can_be_switched_on_renders_to_its_golden_yaml(
    chart: str, values: tuple[str, ...], golden: Any
) -> None:
    own = {"Secret", "ValidatingWebhookConfiguration", "CustomResourceDefinition", "ConfigMap"}
    golden(f"charts/{chart}-everything", [m for m in rendered(chart, *values) if m["kind"] not in own])


@pytest.mark.parametrize("chart", CHARTS)
def test_prometheus_finds_the_pods_and_the_network_lets_it_in(chart: str) -> None:
    manifests = rendered(chart, "serviceMonitor.enabled=true", "networkPolicy.enabled=true")
    monitor, policy = of_kind(manifests, "ServiceMonitor"), of_kind(manifests, "NetworkPolicy")
    (service,) = (m for m in manifests if m["kind"] == "Service")
    pod = of_kind(manifests, "Deployment")["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    named = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert {rule["port"] for rule in policy["spec"]["ingress"][0]["ports"]} == named


def test_the_network_lets_admission_in_where_there_is_any() -> None:
    policy = of_kind(rendered("workspace", "networkPolicy.enabled=true", "webhook.enabled=true"), "NetworkPolicy")
    assert {"protocol": "TCP", "port": "webhook"} in policy["spec"]["ingress"][0]["ports"]


def test_the_dashboard_asks_only_for_metrics_that_there_are() -> None:
    config_map = of_kind(rendered("workspace", "grafanaDashboard.enabled=true"), "ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(config_map["data"]["kaito.json"])
    asked = {
        metric
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for metric in re.findall(r"\b((?:[a-z]+_){2,}[a-z]+)(?=[\[{)])", target["expr"])
    }
    assert len(asked) > len(dashboard["panels"])
    assert asked - metrics_page.series() == set()
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in dashboard["panels"]})


def test_cert_manager_makes_the_certificate_that_the_pod_and_the_api_server_use() -> None:
    manifests = rendered("workspace", "webhook.enabled=true", "webhook.certManager.enabled=true")
    assert "Secret" not in {m["kind"] for m in manifests}
    certificate, webhook = of_kind(manifests, "Certificate"), of_kind(manifests, "ValidatingWebhookConfiguration")
    meta = certificate["metadata"]
    injected = webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert injected == f"{meta['namespace']}/{meta['name']}"
    (service,) = (w["clientConfig"]["service"] for w in webhook["webhooks"])
    assert certificate["spec"]["dnsNames"] == [f"{service['name']}.{service['namespace']}.svc"]
    assert certificate["spec"]["issuerRef"]["name"] == of_kind(manifests, "Issuer")["metadata"]["name"]
    volumes = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "webhook", "secret": {"secretName": certificate["spec"]["secretName"]}} in volumes


def test_an_issuer_of_the_users_own_is_used_as_it_is() -> None:
    own = ("webhook.certManager.issuerRef.kind=ClusterIssuer", "webhook.certManager.issuerRef.name=ours")
    manifests = rendered("workspace", "webhook.enabled=true", "webhook.certManager.enabled=true", *own)
    assert of_kind(manifests, "Certificate")["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "ours"}
    assert "Issuer" not in {m["kind"] for m in manifests}


@pytest.mark.parametrize("chart", CHARTS)
def test_what_a_cluster_asks_of_its_pods_reaches_them(chart: str, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "imagePullSecrets": [{"name": "login"}],
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "important",
        "serviceAccount": {"create": False, "name": "theirs"},
    }
    file = tmp_path / "values.json"
    file.write_text(json.dumps({**wanted, "extraEnv": [{"name": "KAITO_WORKERS", "value": "4"}]}))
    digest = "sha256:" + "0" * 64
    manifests = rendered(chart, f"image.digest={digest}", file=file)
    pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    plain = {key: value for key, value in wanted.items() if key != "serviceAccount"}
    assert {key: pod[key] for key in plain} == plain
    assert pod["serviceAccountName"] == "theirs"
    assert "ServiceAccount" not in {m["kind"] for m in manifests}
    bound = [s["name"] for m in manifests if m["kind"].endswith("RoleBinding") for s in m["subjects"]]
    assert set(bound) == {"theirs"}
    assert pod["containers"][0]["image"] == f"kaito/operator@{digest}"
    assert {"name": "KAITO_WORKERS", "value": "4"} in pod["containers"][0]["env"]


def test_azure_is_described_by_all_of_the_example_values() -> None:
    assert {value.partition("=")[0] for value in AZURE} <= {value.path for value in charts.values("gpu-provisioner")}
