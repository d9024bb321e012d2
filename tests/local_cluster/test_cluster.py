"""The local cluster as its user meets it: by the command line, from outside."""

import json
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cluster import binaries
from tests.support.json_lines import json_lines
from tests.support.ports import free_port

pytestmark = pytest.mark.system

ROOT = Path(__file__).parent.parent.parent
KAITO = (sys.executable, "-m", "kaito_cli", "local")
MINDS_INTERRUPTS = ("env", "--default-signal=INT")
"""What a shell starts in the background ignores SIGINT, and so does all that it starts, this test run included."""


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """What must be there before anything is timed."""
    binaries.find(*binaries.CLUSTER)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state home of the test's own; whatever runs there afterwards is stopped."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    for name in (tmp_path / "kaito").iterdir() if (tmp_path / "kaito").exists() else ():
        kaito("down", "--name", name.name)


def kaito(*arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """``kaito local …``."""
    done = subprocess.run(
        [*KAITO, *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=300, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"kaito local {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def status(name: str = "local") -> dict[str, Any]:
    """``kaito local status -o json``."""
    found: dict[str, Any] = json.loads(kaito("status", "--name", name, "-o", "json").stdout)
    return found


def wait(until: Callable[[], bool], *, within: float, what: str) -> None:
    """Looks until it is so."""
    between_looks = threading.Event()
    for _ in range(round(within / 0.1)):
        if until():
            return
        between_looks.wait(0.1)
    raise AssertionError(f"not within {within} s: {what}")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which waits for its burial, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_cluster_comes_up_works_and_leaves_nothing(home: Path) -> None:
    mounts, addresses = Path("/proc/self/mountinfo").read_text(), Path("/proc/net/fib_trie").read_text()
    first = kaito("up", "--bare")
    assert "system node" in first.stdout
    assert kaito("up", "--bare").stdout == "cluster local is up already\n"
    refused = kaito("up", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "cluster local runs without the operators: kaito local down --name local, then up\n",
    )

    found = status()
    assert found["up"] is True
    assert found["nodes"] == [{"name": "kaito-system", "ready": True, "address": "10.244.255.1"}]
    inside = kaito("run", "--", "kubectl", "get", "nodes", "-o", "name")
    outside = subprocess.run(
        [home / "kaito/local/bin/kubectl", "--kubeconfig", found["kubeconfig"], "get", "nodes", "-o", "name"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert inside.stdout == outside.stdout == "node/kaito-system\n"
    assert kaito("run", "sh", "-c", "exit 7", check=False).returncode == 7
    assert kaito("run", "pwd").stdout == f"{ROOT}\n"
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert Path("/proc/net/fib_trie").read_text() == addresses

    pids = [process["pid"] for process in found["processes"]]
    assert {"etcd", "kube-apiserver", "kubelet", "kube-proxy"} <= {process["name"] for process in found["processes"]}
    kaito("down")
    assert [pid for pid in pids if alive(pid)] == []
    assert list((home / "kaito").iterdir()) == []
    assert kaito("down").stdout == "cluster local is not there; nothing to do\n"


def test_every_request_to_the_api_server_is_in_the_audit_log(home: Path) -> None:
    kaito("up", "--bare")
    kaito("run", "kubectl", "get", "configmap", "only-asked-for-here", check=False)
    requests = json_lines(home / "kaito/local/logs/audit.log")
    asked = [r for r in requests if r.get("objectRef", {}).get("name") == "only-asked-for-here"]
    assert [(r["verb"], r["user"]["username"], r["responseStatus"]["code"], r["stage"]) for r in asked] == [
        ("get", "admin", 404, "ResponseComplete")
    ]


def test_a_service_is_exposed_on_a_port_of_this_machine(home: Path) -> None:
    kaito("up", "--bare")
    port = free_port()
    with subprocess.Popen(
        [*MINDS_INTERRUPTS, *KAITO, "expose", "kubernetes", str(port)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as exposing:
        assert exposing.stdout is not None
        assert exposing.stdout.readline().startswith(f"http://127.0.0.1:{port} is Service kubernetes")
        trusting = ssl.create_default_context(cafile=None)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

        def lives() -> bool:
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{port}/livez", timeout=20, context=trusting) as answer:
                    return bool(answer.read() == b"ok")
            except OSError:  # kube-proxy has begun with the cluster
                return False

        wait(lives, within=60, what="the Service leads to it")
        taken = kaito("expose", "kubernetes", str(port), check=False)
        exposing.send_signal(signal.SIGINT)
    assert exposing.returncode == 0
    assert taken.returncode == 1
    assert taken.stderr == f"127.0.0.1:{port} cannot be used: Address already in use; name another port\n"
    missing = kaito("expose", "no-such-service", check=False)
    assert (missing.returncode, missing.stderr) == (1, '(NotFound): services "no-such-service" not found\n')


WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532}
      containers:
        - name: web
          image: local/shell:dev
          command: [sh, -c, "cd /var/run/secrets/kubernetes.io/serviceaccount && exec python3 -m http.server 80"]
          readinessProbe: {httpGet: {port: 80}, periodSeconds: 1, timeoutSeconds: 30}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


def test_a_deployment_that_is_not_root_answers_behind_its_service_and_may_read_its_token(home: Path) -> None:
    kaito("up", "--bare")
    kaito("run", "kubectl", "apply", "-f", "-", stdin=WEB)
    kaito("run", "kubectl", "rollout", "status", "deployment/web", "--timeout=240s")
    address = kaito("run", "kubectl", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}").stdout
    fetched = ("run", "curl", "--silent", "--fail", "--max-time", "10", f"http://{address}/token")
    wait(lambda: kaito(*fetched, check=False).returncode == 0, within=60, what="the Service leads to it")
    assert kaito(*fetched).stdout.count(".") == 2  # header, claims, signature (RFC 7519)


POOL = (
    "http://10.244.255.1:10443/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local/providers"
    "/Microsoft.ContainerService/managedClusters/local/agentPools/ws123456789?api-version=2025-01-01"
)
POOL_BODY = {
    "properties": {
        "count": 1,
        "vmSize": "Standard_NC12s_v3",
        "mode": "User",
        "osType": "Linux",
        "type": "VirtualMachineScaleSets",
        "nodeLabels": {"kaito.sh/workspace": "x"},
        "nodeTaints": ["sku=gpu:NoSchedule"],
    }
}


def test_a_virtual_machine_of_the_cloud_joins_as_a_node_and_leaves_as_one(home: Path) -> None:
    kaito("up", "--bare")
    cloud = ("run", "curl", "--silent", "--fail", "--header", "Authorization: Bearer t", "--request")
    sent = ("--header", "Content-Type: application/json", "--data", json.dumps(POOL_BODY))
    kaito(*cloud, "PUT", *sent, POOL)

    def node() -> dict[str, Any] | None:
        found = json.loads(kaito("run", "kubectl", "get", "nodes", "-o", "json").stdout)["items"]
        return next((n for n in found if n["metadata"]["name"].startswith("aks-")), None)

    def advertises() -> bool:
        seen = node()
        # An NC12s_v3 has two.
        return seen is not None and seen["status"]["allocatable"].get("nvidia.com/gpu") == "2"

    wait(advertises, within=30, what="a node with GPUs")
    joined = node()
    assert joined is not None
    assert joined["metadata"]["labels"]["kaito.sh/workspace"] == "x"
    assert joined["spec"]["providerID"].startswith("azure:///subscriptions/")
    assert {"key": "sku", "value": "gpu", "effect": "NoSchedule"} in joined["spec"]["taints"]
    assert status()["rss_mb"] <= 1200  # 900 where the garbage collectors keep up
    pids = {p["pid"] for p in status()["processes"] if p["name"] == "kubelet"}
    assert len(pids) == 2

    kaito(*cloud, "DELETE", POOL)
    wait(lambda: node() is None, within=30, what="the node gone")
    wait(lambda: sum(alive(pid) for pid in pids) == 1, within=30, what="its kubelet gone")


@pytest.mark.faults
def test_programs_of_the_control_plane_come_back_when_they_die(home: Path) -> None:
    kaito("up", "--bare")
    before = {p["name"]: p["pid"] for p in status()["processes"]}
    killed = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
    for name in killed:
        os.kill(before[name], signal.SIGKILL)
    wait(lambda: not any(alive(before[name]) for name in killed), within=30, what="dead")

    def back() -> bool:
        answer = kaito("run", "kubectl", "create", "configmap", "still-writable", check=False)
        return answer.returncode == 0

    wait(back, within=30, what="a control plane that stores")
    assert kaito("run", "kubectl", "get", "nodes", "-o", "name").stdout == "node/kaito-system\n"


@pytest.mark.faults
def test_a_cluster_whose_process_was_killed_is_gone_and_can_be_started_again(home: Path) -> None:
    kaito("up", "--bare")
    processes = status()["processes"]
    server = next(p["pid"] for p in processes if p["name"] == "local_cluster serve")
    os.kill(server, signal.SIGKILL)
    wait(lambda: not any(alive(p["pid"]) for p in processes), within=30, what="all processes gone")
    for command in (("status",), ("run", "true"), ("expose", "kubernetes")):
        refused = kaito(*command, check=False)
        assert refused.returncode == 1
        assert refused.stderr == "cluster local is not running: kaito local up --name local\n"
    kaito("up", "--bare")
    assert status()["up"] is True


@pytest.mark.faults
def test_a_start_killed_half_way_is_told_and_can_be_repeated(home: Path) -> None:
    with subprocess.Popen(
        [*KAITO, "up", "--bare"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as starting:
        record = home / "kaito/local/cluster.json"
        wait(lambda: record.exists() and json.loads(record.read_text())["init_pid"] > 0, within=20, what="a namespace")
        os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
        _, complaint = starting.communicate(timeout=120)
    assert starting.returncode == 1
    assert complaint.startswith("the cluster's process ended")
    assert complaint.count("\n") == 1
    kaito("up", "--bare")
    assert status()["up"] is True


@pytest.mark.faults
def test_two_at_once_start_one_cluster_and_both_see_it_come_up(home: Path) -> None:
    both = [
        subprocess.Popen([*KAITO, "up", "--bare"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [starting.communicate(timeout=300) for starting in both]
    assert [starting.returncode for starting in both] == [0, 0], said
    assert [p["name"] for p in status()["processes"]].count("etcd") == 1


def test_clusters_side_by_side_do_not_meet(home: Path) -> None:
    kaito("up", "--bare", "--name", "one")
    kaito("up", "--bare", "--name", "two")
    kaito("run", "--name", "one", "kubectl", "create", "namespace", "only-in-one")
    found = kaito("run", "--name", "two", "kubectl", "get", "namespaces", "-o", "name").stdout
    assert "only-in-one" not in found
    kaito("down", "--name", "one")
    assert status("two")["up"] is True


@pytest.mark.badinput
def test_what_cannot_work_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    refused = kaito("up", check=False)
    assert refused.returncode == 1
    assert refused.stderr == f"{tmp_path}/file/kaito/local: Not a directory\n"


@pytest.mark.badinput
def test_a_disk_without_room_is_said_in_one_line(home: Path) -> None:
    script = f"mount -t tmpfs -o size=20m tmpfs {home} && exec {' '.join(KAITO)} up"
    refused = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("only 19 MB are free")
    assert refused.stderr.count("\n") == 1


@pytest.mark.badinput
def test_a_kernel_that_forbids_namespaces_is_said_in_one_line(home: Path) -> None:
    # The limit holds in the user namespace that sets it, and not on the machine.
    script = f"echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all {' '.join(KAITO)} up"
    refused = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("this kernel lets you make neither user namespaces nor others")
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become an ordinary user; for others every test is this test"
)
@pytest.mark.security
def test_an_ordinary_user_needs_no_root() -> None:
    nobody = pwd.getpwnam("nobody")
    home = Path("/tmp") / f"kaito-nobody-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    assets = {name: path.resolve() for name, path in binaries.find(*binaries.CLUSTER).items()}
    for name, path in assets.items():
        shutil.copy(path, home / name)
    become = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    become.append("env")  # executed without root's capabilities, which setpriv itself still has
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_STATE_HOME": str(home),
        "KUBEBUILDER_ASSETS": str(home),
        "PYTHONPATH": ":".join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def as_nobody(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*become, python, *arguments]
        return subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    try:
        usable = (p for p in (sys.executable, "/usr/bin/python3") if not as_nobody(p, "-c", "import typer").returncode)
        python = next(usable, None)
        if python is None:
            pytest.skip("no Python with our packages that an ordinary user may run")
        started = as_nobody(python, "-m", "kaito_cli", "local", "up", "--bare")
        assert started.returncode == 0, started.stderr
        seen = as_nobody(python, "-m", "kaito_cli", "local", "run", "kubectl", "get", "nodes", "-o", "name")
        assert seen.stdout == "node/kaito-system\n"
    finally:
        as_nobody(python or sys.executable, "-m", "kaito_cli", "local", "down")
        shutil.rmtree(home)
