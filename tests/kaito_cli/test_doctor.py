"""``kaito doctor``: what it makes of what it sees, and what it sees of a real API server."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kaito_cli.doctor import line
from kaito_cli.findings import CREDENTIALS, MACHINES, WORKSPACES, Examined, Finding, Verdict, findings
from tests.support.control_plane import ApiServer
from tests.support.waiting import eventually


def a_crd(name: str, *, established: str = "True") -> dict[str, Any]:
    condition = {"type": "Established", "status": established, "message": "names are taken"}
    return {"metadata": {"name": name}, "status": {"conditions": [condition]}}


def a_deployment(controller: str, *, ready: int = 1) -> dict[str, Any]:
    command = ["python", "-m", "kaito_operator", controller]
    return {
        "metadata": {"name": f"kaito-{controller}", "namespace": "kaito-system"},
        "spec": {"template": {"spec": {"containers": [{"command": command}]}}},
        "status": {"readyReplicas": ready},
    }


def an_operator(**env: str) -> dict[str, Any]:
    """The Workspace operator with this environment."""
    found = a_deployment("workspace")
    found["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": n, "value": v} for n, v in env.items()]
    return found


def a_node(name: str, *, labels: dict[str, str], gpus: str = "0") -> dict[str, Any]:
    allocatable = {"cpu": "4", "nvidia.com/gpu": gpus}
    return {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}}


def a_webhook(*, bundle: str) -> dict[str, Any]:
    return {"webhooks": [{"rules": [{"apiGroups": ["kaito.sh"]}], "clientConfig": {"caBundle": bundle}}]}


def seen(**changes: Any) -> Examined:
    whole = {
        "crds": {name: a_crd(name) for name in (WORKSPACES, MACHINES)},
        "deployments": (a_deployment("workspace"), a_deployment("gpu-provisioner")),
        "webhooks": (a_webhook(bundle="Zm9v"),),
        "nodes": (a_node("gpu-0", labels={"nvidia.com/gpu.present": "true"}, gpus="1"),),
        "machines": (),
        "denied": (),
    }
    return Examined(**{**whole, **changes})


def of(what: str, examined: Examined) -> Finding:
    (found,) = (f for f in findings(examined) if f.what == what)
    return found


def test_a_whole_installation_is_ok_in_every_line() -> None:
    assert {f.verdict for f in findings(seen())} == {Verdict.OK}
    assert all(line(f).startswith("✓ ok ") for f in findings(seen()))


def test_a_runtime_image_is_named() -> None:
    operator = an_operator(KAITO_MODEL_FILES="auto", KAITO_RUNTIME_IMAGE="r.io/kaito-runtime:1")
    found = of("runtime image", seen(deployments=(operator, a_deployment("gpu-provisioner"))))
    assert (found.verdict, found.told) == (Verdict.OK, "r.io/kaito-runtime:1")


MACHINE = {
    "metadata": {"name": "ws0"},
    "status": {"conditions": [{"status": "False", "reason": sorted(CREDENTIALS)[0], "message": "no such identity"}]},
}


@pytest.mark.parametrize(
    ("changes", "what", "verdict", "told"),
    [
        ({"crds": {MACHINES: a_crd(MACHINES)}}, f"CRD {WORKSPACES}", Verdict.MISSING, "no Workspace can be stored"),
        (
            {"crds": {WORKSPACES: a_crd(WORKSPACES, established="False"), MACHINES: a_crd(MACHINES)}},
            f"CRD {WORKSPACES}", Verdict.WRONG, "names are taken",
        ),
        ({"deployments": (a_deployment("gpu-provisioner"),)}, "workspace operator", Verdict.MISSING, "no Deployment"),
        ({"deployments": (a_deployment("workspace", ready=0),)}, "workspace operator", Verdict.WRONG, "no ready pod"),
        ({"deployments": (a_deployment("workspace"),)}, "gpu-provisioner", Verdict.MISSING, "no Deployment"),
        ({"webhooks": (a_webhook(bundle=""),)}, "admission webhook", Verdict.WRONG, "no caBundle"),
        (
            {"nodes": (a_node("gpu-0", labels={"accelerator": "nvidia"}),)},
            "NVIDIA device plugin", Verdict.WRONG, "gpu-0 has a GPU label",
        ),
        (
            {"deployments": (an_operator(KAITO_MODEL_FILES="hub"), a_deployment("gpu-provisioner"))},
            "runtime image", Verdict.WRONG, "modelFiles is hub, and there is no image to run over the files",
        ),
        ({"machines": (MACHINE,)}, "credentials of gpu-provisioner", Verdict.WRONG, "ws0: no such identity"),
        ({"denied": ("create services/proxy",)}, "your rights", Verdict.WRONG, "you may not create services/proxy"),
        ({"refused": ("nodes",)}, "reading nodes", Verdict.WRONG, "not allowed"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named_with_what_to_do(
    changes: dict[str, Any], what: str, verdict: Verdict, told: str
) -> None:
    found = of(what, seen(**changes))
    assert (found.verdict, found.harmful) == (verdict, True)
    assert told in found.told
    assert found.remedy


@pytest.mark.parametrize(
    ("refused", "unjudged"),
    [
        ("customresourcedefinitions", {f"CRD {WORKSPACES}", f"CRD {MACHINES}", "credentials of gpu-provisioner"}),
        ("deployments", {"workspace operator", "gpu-provisioner"}),
        ("validatingwebhookconfigurations", {"admission webhook"}),
        ("nodes", {"NVIDIA device plugin"}),
        ("machines", {"credentials of gpu-provisioner"}),
        ("selfsubjectaccessreviews", {"your rights"}),
    ],
)
def test_what_may_not_be_read_is_not_judged_and_everything_else_is(refused: str, unjudged: set[str]) -> None:
    told = {f.what for f in findings(seen(refused=(refused,)))}
    assert {f.what for f in findings(seen())} ^ told == unjudged | {f"reading {refused}"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"webhooks": ()}, "admission webhook"),
        ({"nodes": (a_node("cpu-0", labels={}),)}, "NVIDIA device plugin"),
        ({"deployments": (an_operator(KAITO_MODEL_FILES="auto"), a_deployment("gpu-provisioner"))}, "runtime image"),
        ({"crds": {WORKSPACES: a_crd(WORKSPACES)}, "deployments": (a_deployment("workspace"),)}, "node provisioner"),
    ],
)
def test_what_can_be_done_without_is_said_and_harms_nothing(changes: dict[str, Any], what: str) -> None:
    found = of(what, seen(**changes))
    assert (found.verdict, found.harmful) == (Verdict.MISSING, False)
    assert not any(f.harmful for f in findings(seen(**changes)))


def test_a_deployment_of_the_chart_is_known_by_its_name_too() -> None:
    renamed = a_deployment("workspace")
    renamed["spec"]["template"]["spec"]["containers"] = [{"command": ["/entrypoint"]}]
    renamed["metadata"]["labels"] = {"app.kubernetes.io/name": "kaito-workspace"}
    assert of("workspace operator", seen(deployments=(renamed, a_deployment("gpu-provisioner")))).verdict is Verdict.OK


def doctor(server: ApiServer, user: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return asked(server.kubeconfig(user), *flags)


def asked(kubeconfig: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaito_cli", "doctor", "--kubeconfig", str(kubeconfig), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds")
def test_an_api_server_with_our_definitions_and_nothing_else_lacks_the_controllers(api_server: ApiServer) -> None:
    done = doctor(api_server, "admin", "-o", "json")
    assert (done.returncode, done.stderr) == (1, "")
    verdicts = {found["what"]: found["verdict"] for found in json.loads(done.stdout)}
    assert verdicts[f"CRD {WORKSPACES}"] == "ok"
    assert verdicts["workspace operator"] == "missing"
    assert verdicts["your rights"] == "ok"


@pytest.mark.controlplane
@pytest.mark.security
def test_whoever_may_nothing_is_told_so_and_nothing_is_judged_unseen(api_server: ApiServer) -> None:
    done = doctor(api_server, "stranger")
    assert done.returncode == 1
    assert "✗ wrong    reading customresourcedefinitions: not allowed, so not judged" in done.stdout
    assert "you may not get workspaces, list workspaces" in done.stdout
    assert f"CRD {WORKSPACES}" not in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.controlplane
@pytest.mark.security
def test_whoever_may_not_even_ask_for_rights_is_told_what_else_there_is(api_server: ApiServer) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:basic-user"
    everybodys = api_server.ask("GET", path)
    may = partial(api_server.allows, "stranger", "create", "selfsubjectaccessreviews", group="authorization.k8s.io")
    api_server.ask("DELETE", path)
    try:
        eventually(lambda: not may(), within=20, what="nobody may ask for rights")
        done = doctor(api_server, "stranger", "-o", "json")
    finally:
        kept = {"metadata": {"name": "system:basic-user"}, "kind": "ClusterRoleBinding"}
        api_server.apply(path, {**everybodys, **kept, "apiVersion": "rbac.authorization.k8s.io/v1"})
        eventually(may, within=20, what="everybody may ask again")
    told = {found["what"]: found["verdict"] for found in json.loads(done.stdout)}
    assert (done.returncode, done.stderr) == (1, "")
    assert told["reading selfsubjectaccessreviews"] == "wrong"
    assert "your rights" not in told


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds")
def test_a_server_behind_another_address_is_known_by_the_name_that_the_kubeconfig_gives(
    api_server: ApiServer, tmp_path: Path
) -> None:
    there = json.loads(api_server.kubeconfig("admin").read_text())
    cluster = there["clusters"][0]["cluster"]
    cluster["server"] = cluster["server"].replace(api_server.plane.listen, "localhost")
    for name, code in (("kubernetes.default", 0), ("kubernetes.example", 1)):
        cluster["tls-server-name"] = name
        kubeconfig = tmp_path / name
        kubeconfig.write_text(json.dumps(there))
        done = asked(kubeconfig, "-o", "json")
        assert ("certificate" in done.stderr, bool(done.stdout)) == (bool(code), not code), done.stderr
