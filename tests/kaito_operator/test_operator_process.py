"""``python -m kaito_operator`` as a process: how it starts, idles, hands over and ends."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from local_cluster import credentials
from tests.support.control_plane import ApiServer
from tests.support.forwarder import Forwarder
from tests.support.json_lines import json_lines
from tests.support.operator_process import WATCHED
from tests.support.ports import free_port, free_ports
from tests.support.waiting import eventually

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("crds")]
RENEWAL = "update leases"


def command(kubeconfig: Path | str, controller: str = "workspace") -> list[str]:
    return [sys.executable, "-m", "kaito_operator", controller, "--kubeconfig", str(kubeconfig)]


def environment(namespace: str, **settings: str) -> dict[str, str]:
    metrics, health = free_ports(2)
    return {
        **os.environ,
        "RELEASE_NAMESPACE": namespace,
        "KAITO_MODEL_FILES": "baked",
        "KAITO_LEASE_SECONDS": "60",
        "KAITO_METRICS_PORT": str(metrics),
        "KAITO_HEALTH_PORT": str(health),
        **settings,
    }


@contextmanager
def operator(
    server: ApiServer, namespace: str, *, user: str = "operator", **settings: str
) -> Iterator[subprocess.Popen[str]]:
    """A running Workspace operator; its log is on ``stderr``."""
    env = environment(namespace, **settings)
    log = server.plane.directory / f"{namespace}.log"
    with (
        log.open("a") as out,
        subprocess.Popen(command(server.kubeconfig(user)), text=True, env=env, stderr=out) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def log_of(server: ApiServer, namespace: str) -> list[dict[str, Any]]:
    return json_lines(server.plane.directory / f"{namespace}.log")


def holder(server: ApiServer, namespace: str) -> str:
    found = server.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/kaito-workspace")
    return str(found["spec"].get("holderIdentity", "")) if found else ""


def leads(server: ApiServer, namespace: str, host: str) -> None:
    eventually(lambda: holder(server, namespace).startswith(f"{host}_"), within=20, what=f"{host} leads")


def body(port: str, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def test_idle_it_watches_and_renews_its_lease_and_asks_for_nothing_else(api_server: ApiServer, namespace: str) -> None:
    start = api_server.now()
    with operator(api_server, namespace, POD_NAME="one", KAITO_LEASE_SECONDS="5"):
        leads(api_server, namespace, "one")

        def watched() -> list[str]:
            return sorted({told for told in start.requests() if told.startswith("watch ")})

        eventually(lambda: len(watched()) >= len(WATCHED), within=20, what="the watches are there")
        eventually(lambda: set(start.requests()[-4:]) == {RENEWAL}, within=20, what="nothing else for four renewals")
        idle, since = api_server.now(), time.monotonic()
        eventually(lambda: idle.requests().count(RENEWAL) >= 8, within=20, what="eight more")
        asked, seconds = idle.requests(), time.monotonic() - since
    assert set(asked) == {RENEWAL}
    assert len(asked) <= 1 + seconds / (5 / 7.5), "one renewal every two thirds of a second"
    assert watched() == [f"watch {plural}" for plural in WATCHED]
    assert start.writes() == []


def test_asked_to_stop_it_gives_the_lease_back_and_the_next_starts_at_once(
    api_server: ApiServer, namespace: str
) -> None:
    with operator(api_server, namespace, POD_NAME="one") as process:
        leads(api_server, namespace, "one")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert holder(api_server, namespace) == ""
    assert log_of(api_server, namespace)[-1]["msg"] == "stopped"
    with operator(api_server, namespace, POD_NAME="two"):
        leads(api_server, namespace, "two")


def test_killed_its_next_process_in_the_same_pod_leads_at_once(api_server: ApiServer, namespace: str) -> None:
    with operator(api_server, namespace, POD_NAME="one", KAITO_LEASE_SECONDS="600") as process:
        leads(api_server, namespace, "one")
        before = holder(api_server, namespace)
        process.kill()
    with operator(api_server, namespace, POD_NAME="one", KAITO_LEASE_SECONDS="600"):
        eventually(lambda: holder(api_server, namespace) not in (before, ""), within=20, what="the new process leads")


@pytest.mark.money
def test_the_second_replica_observes_is_ready_and_writes_nothing(api_server: ApiServer, namespace: str) -> None:
    with operator(api_server, namespace, POD_NAME="one"):
        leads(api_server, namespace, "one")
        metrics, health = map(str, free_ports(2))
        ports = {"KAITO_METRICS_PORT": metrics, "KAITO_HEALTH_PORT": health}
        with operator(api_server, namespace, POD_NAME="two", **ports):
            eventually(lambda: answers(health, "/readyz"), within=20, what="the second is ready")
            assert body(health, "/healthz") == "ok"
            told = body(metrics, "/metrics")
            assert 'leader_election_master_status{name="kaito-workspace"} 0.0' in told
            assert 'rest_client_requests_total{code="200",method="LIST",resource="nodes"} 1.0' in told
            assert holder(api_server, namespace).startswith("one_")


def answers(port: str, path: str) -> bool:
    try:
        return body(port, path) == "ok"
    except (urllib.error.URLError, ConnectionError):
        return False


READER = {
    "metadata": {"name": "reader"},
    "rules": [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
    ],
}
BINDING = {
    "metadata": {"name": "reader"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
    "subjects": [{"kind": "User", "name": "stranger"}],
}


@pytest.mark.faults
def test_when_a_watch_cannot_be_had_it_ends_so_that_somebody_notices(api_server: ApiServer, namespace: str) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    may = partial(api_server.allows, "stranger", "list", "workspaces", group="kaito.sh")
    api_server.ask("POST", f"{rbac}/clusterroles", READER)
    api_server.ask("POST", f"{rbac}/clusterrolebindings", BINDING)
    try:
        eventually(may, within=20, what="the role counts")
        with operator(api_server, namespace, user="stranger", POD_NAME="one") as process:
            assert process.wait(60) == 1
    finally:
        api_server.ask("DELETE", f"{rbac}/clusterrolebindings/reader")
        api_server.ask("DELETE", f"{rbac}/clusterroles/reader")
        eventually(lambda: not may(), within=20, what="the role counts no more")
    assert any("cannot watch" in line["msg"] for line in log_of(api_server, namespace) if line["level"] == "error")
    assert holder(api_server, namespace) == "", "it gave the Lease back"


@pytest.mark.faults
@pytest.mark.money
def test_cut_off_from_the_api_server_it_ends_before_another_may_lead(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    way = Forwarder(api_server.plane.api_port)
    detour = credentials.kubeconfig(
        server=f"https://127.0.0.1:{way.port}",
        token=api_server.tokens["operator"],
        authority=api_server.plane.authority.read_bytes(),
        cluster="test",
    )
    credentials.write_secret(tmp_path / "kubeconfig", detour)
    seconds = 8  # it ends within 6, and another may lead after 8: the rest is for a machine that is busy
    env = environment(namespace, POD_NAME="one", KAITO_LEASE_SECONDS=str(seconds))
    with subprocess.Popen(command(tmp_path / "kubeconfig"), env=env, stderr=subprocess.DEVNULL) as process:
        leads(api_server, namespace, "one")
        way.cut()
        assert process.wait(seconds) == 1
    assert holder(api_server, namespace).startswith("one_"), "nobody else led meanwhile"


@pytest.mark.badinput
class TestWhatIsWrongIsSaidInOneLine:
    """And the exit code says that it is wrong."""

    def ended(self, *arguments: str, **settings: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            arguments, env=environment("default", **settings), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout == ""
        return done.returncode, done.stderr.splitlines()

    def test_settings(self, tmp_path: Path) -> None:
        code, told = self.ended(*command(tmp_path, "gpu-provisioner"), KAITO_WORKERS="none")
        assert code == 2
        assert {line.split(":")[0] for line in told} == {
            "KAITO_WORKERS",
            "ARM_SUBSCRIPTION_ID",
            "ARM_RESOURCE_GROUP",
            "AZURE_CLUSTER_NAME",
        }

    def test_no_kubeconfig(self, tmp_path: Path) -> None:
        code, told = self.ended(*command(tmp_path / "nowhere"), KAITO_LOG_FORMAT="text")
        assert code == 1
        assert f"ending: NoKubeconfig: {tmp_path / 'nowhere'}: " in told[-1]
        assert not any("Traceback" in line for line in told)

    def test_no_rights(self, api_server: ApiServer) -> None:
        code, told = self.ended(*command(api_server.kubeconfig("stranger")), KAITO_LOG_FORMAT="text")
        assert code == 1
        assert any("403 Forbidden" in line and "workspaces" in line for line in told)

    def test_a_port_that_is_taken(self, api_server: ApiServer) -> None:
        port = str(free_port())
        ports = {"KAITO_METRICS_PORT": port, "KAITO_HEALTH_PORT": port}
        code, told = self.ended(*command(api_server.kubeconfig()), KAITO_LOG_FORMAT="text", **ports)
        assert code == 1
        assert len(told) == 1
        assert f"{port}" in told[0]
