"""``kaito deploy`` judges by what the cluster's operator runs: cards too old for its torch are refused before they are
asked for, in the words of the operator itself."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from kaito_cli.installed import runtime_of
from kaito_operator.api.runtime import Runtime
from kaito_operator.api.sources import Source
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.controller import mistakes
from kaito_operator.workspace.installation import installation
from presets.catalog import load_catalog
from tests.kaito_cli.test_doctor import a_deployment, an_operator
from tests.kaito_cli.test_manifest import kaito
from tests.support.control_plane import ApiServer

OLD = ("--preset", "falcon-7b", "--instance-type", "Standard_NC6s_v3")
SAYS = "the V100 cards of Standard_NC6s_v3 are of compute capability 7.0, and the runtime is built for 7.5 and newer"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{namespace}/deployments"


@pytest.mark.parametrize(
    ("told", "runtime"),
    [
        ({"KAITO_MODEL_FILES": "auto"}, Runtime(Source.AUTO, image=False)),
        ({"KAITO_MODEL_FILES": "hub", "KAITO_RUNTIME_IMAGE": "r.io/kaito:1"}, Runtime(Source.HUB, image=True)),
        (
            {"KAITO_MODEL_FILES": "baked", "KAITO_RUNTIME_CAPABILITY": "0.0"},
            Runtime(Source.BAKED, image=False, oldest=(0, 0)),
        ),
        ({"KAITO_MODEL_FILES": "of another version"}, None),
        ({}, None),
    ],
)
def test_what_models_run_with_is_read_as_the_operator_reads_it(told: dict[str, str], runtime: Runtime | None) -> None:
    assert runtime_of([a_deployment("gpu-provisioner"), an_operator(**told)]) == runtime
    if runtime is not None:
        named = {alias: told[alias] for alias in told}
        assert installation(WorkspaceSettings.model_validate(named)).runtime == runtime


def test_without_an_operator_nothing_is_known() -> None:
    assert runtime_of([a_deployment("gpu-provisioner")]) is None


@pytest.fixture
def installed(api_server: ApiServer, namespace: str) -> Iterator[dict[str, Any]]:
    """The operator's Deployment as a cluster stores it, with our runtime."""
    operator = copy.deepcopy(an_operator(KAITO_MODEL_FILES="hub", KAITO_RUNTIME_IMAGE="r.io/kaito-runtime:1"))
    container = operator["spec"]["template"]["spec"]["containers"][0]
    labels = {"app": "kaito-workspace"}
    stored: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "kaito-workspace", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "operator", "image": "r.io/operator:1", **container}]},
            },
        },
    }
    api_server.ask("POST", DEPLOYMENTS.format(namespace=namespace), stored)
    yield stored
    api_server.ask("DELETE", f"{DEPLOYMENTS.format(namespace=namespace)}/kaito-workspace")


@pytest.mark.controlplane
@pytest.mark.money
@pytest.mark.usefixtures("crds", "installed")
def test_what_the_operator_would_refuse_is_not_applied_and_said_in_its_words(
    api_server: ApiServer, namespace: str
) -> None:
    cluster = ("-n", namespace, "--kubeconfig", str(api_server.kubeconfig("admin")))
    done = kaito("deploy", "chat", *OLD, *cluster)
    manifest = yaml.safe_load(done.stdout.partition("\n\n")[0])
    runtime = Runtime(Source.HUB, image=True)
    assert (done.returncode, done.stderr) == (1, f"{mistakes(manifest, catalog=load_catalog(), runtime=runtime)}\n")
    assert SAYS in done.stderr
    assert api_server.get(f"/apis/kaito.sh/v1alpha1/namespaces/{namespace}/workspaces/chat") is None


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds", "installed")
@pytest.mark.parametrize("how", [("--model-files", "kaito"), ("--image", "r.io/own/falcon:1")])
def test_images_with_a_torch_of_their_own_are_applied(
    api_server: ApiServer, namespace: str, how: tuple[str, ...]
) -> None:
    cluster = ("-n", namespace, "--kubeconfig", str(api_server.kubeconfig("admin")))
    done = kaito("deploy", "chat", *OLD, *how, *cluster)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dry_run_knows_no_cluster_and_warns() -> None:
    done = kaito("deploy", "chat", *OLD, "-n", "team", "--dry-run", "-o", "yaml")
    assert (done.returncode, yaml.safe_load(done.stdout)["kind"]) == (0, "Workspace")
    assert done.stderr.startswith(f"refused where our runtime serves it: resource.instanceType: {SAYS}; write another")


def test_a_plan_says_the_same_of_the_cards() -> None:
    done = kaito("plan", "--model", "falcon-7b", "--instance-type", "Standard_NC6s_v3", "--offline", "-o", "json")
    assert done.returncode == 2
    assert SAYS in done.stdout
