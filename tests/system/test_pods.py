"""Pods on the local cluster: what anybody expects of Kubernetes, with a real kubelet over our container runtime."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster.images import OPERATOR, SHELL
from tests.support.cluster import LocalCluster, eventually

pytestmark = pytest.mark.system

WEB = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: greeting}}
data: {{text: hello}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      initContainers:
      - name: fill
        image: {SHELL}
        command: [sh, -c, "cp /greeting/text /site/index.html"]
        volumeMounts: [{{name: site, mountPath: /site}}, {{name: greeting, mountPath: /greeting}}]
      - name: clock
        image: {SHELL}
        restartPolicy: Always
        command: [sh, -c, "while :; do date > /site/clock; sleep 1; done"]
        volumeMounts: [{{name: site, mountPath: /site}}]
      containers:
      - name: server
        image: {OPERATOR}
        command: [python, -m, http.server, "5000", --directory, /site]
        securityContext:
          runAsUser: 65532
          runAsNonRoot: true
          readOnlyRootFilesystem: true
          allowPrivilegeEscalation: false
          capabilities: {{drop: [ALL]}}
          seccompProfile: {{type: RuntimeDefault}}
        readinessProbe: {{httpGet: {{path: /index.html, port: 5000}}, periodSeconds: 1, timeoutSeconds: 30}}
        livenessProbe: {{exec: {{command: [test, -f, /site/clock]}}, periodSeconds: 1, timeoutSeconds: 30}}
        volumeMounts: [{{name: site, mountPath: /site, readOnly: true}}, {{name: memory, mountPath: /dev/shm}}]
      volumes:
      - {{name: site, emptyDir: {{}}}}
      - {{name: memory, emptyDir: {{medium: Memory}}}}
      - {{name: greeting, configMap: {{name: greeting}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 5000}}]}}
"""

ASK_THE_API = """
import ssl, time, urllib.error, urllib.request
place = "/var/run/secrets/kubernetes.io/serviceaccount/"
token = open(place + "token").read()
context = ssl.create_default_context(cafile=place + "ca.crt")
request = urllib.request.Request("https://10.96.0.1:443/version", headers={"Authorization": "Bearer " + token})
while True:
    try:
        print(urllib.request.urlopen(request, context=context).status)
        break
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError:
        time.sleep(0.2)
"""
"""Until it leads there: kube-proxy has begun with the cluster."""


@pytest.fixture(scope="module")
def bare() -> Iterator[LocalCluster]:
    """A cluster without operators."""
    local = LocalCluster(f"pods-{os.getpid()}")
    local.up("--bare")
    try:
        local.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=240s")
        local.apply(WEB)
        yield local
    finally:
        local.down()


@pytest.fixture
def web(bare: LocalCluster) -> LocalCluster:
    """The cluster once its web server is ready, and its Service leads there."""
    bare.kubectl("rollout", "status", "deployment/web", "--timeout=240s")
    address = bare.get("service", "web")["spec"]["clusterIP"]
    fetched = ("curl", "--silent", "--fail", "--max-time", "20", f"http://{address}/index.html")
    eventually(lambda: bare.run(*fetched, check=False) == "hello", within=60, what="the Service leads to it")
    return bare


def pod(name: str, *command: str, image: str = SHELL) -> str:
    """A Pod that runs once."""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec: {{restartPolicy: Never, containers: [{{name: main, image: {image}, command: {json.dumps(command)}}}]}}
"""


def state_of(cluster: LocalCluster, name: str) -> dict[str, Any]:
    """The state of a pod's only container; empty while there is none."""
    found = cluster.get("pod", name)["status"].get("containerStatuses", [])
    return dict(found[0]["state"]) if found else {}


def fetch(url: str) -> tuple[str, str, str]:
    return ("python", "-c", f"import urllib.request as u; print(u.urlopen('{url}', timeout=20).read().decode())")


def test_init_container_sidecar_volumes_and_probes_make_a_pod_ready(web: LocalCluster) -> None:
    (found,) = web.items("pods", "-l", "app=web")
    assert found["status"]["phase"] == "Running"
    assert found["status"]["podIP"].startswith("10.244.1.")
    assert [c["ready"] for c in found["status"]["containerStatuses"]] == [True]
    assert [c["state"].keys() for c in found["status"]["initContainerStatuses"]] == [{"terminated"}, {"running"}]


def test_a_service_leads_to_its_pod_from_the_node_from_others_and_from_itself(web: LocalCluster) -> None:
    address = web.get("service", "web")["spec"]["clusterIP"]
    url = f"http://{address}/index.html"
    assert web.kubectl("exec", "deploy/web", "-c", "server", "--", *fetch(url)) == "hello\n"
    assert web.run("curl", "--silent", "--fail", url) == "hello"
    web.apply(pod("asks", *fetch(url), image=OPERATOR))
    web.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=240s")
    assert web.kubectl("logs", "asks") == "hello\n"


def test_a_pod_reaches_the_api_server_with_its_token(bare: LocalCluster) -> None:
    bare.apply(pod("token", "python", "-c", ASK_THE_API, image=OPERATOR))
    bare.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/token", "--timeout=240s")
    assert bare.kubectl("logs", "token") == "200\n"


def test_a_pod_that_fails_says_its_exit_code_and_its_last_words(bare: LocalCluster) -> None:
    bare.apply(pod("fails", "sh", "-c", "echo log; echo because > /dev/termination-log; exit 42"))
    bare.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/fails", "--timeout=240s")
    ended = state_of(bare, "fails")["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (42, "Error", "because\n")
    assert bare.kubectl("logs", "fails") == "log\n"


def test_an_image_that_does_not_exist_is_an_image_that_cannot_be_pulled(bare: LocalCluster) -> None:
    bare.apply(pod("no-image", "true", image="example.com/none:1"))
    waiting = eventually(lambda: state_of(bare, "no-image").get("waiting"), within=300, what="the kubelet's answer")
    eventually(
        lambda: state_of(bare, "no-image")["waiting"]["reason"] in {"ErrImagePull", "ImagePullBackOff"},
        within=300,
        what=f"a failed pull after {waiting}",
    )
    assert "example.com/none:1: not found" in state_of(bare, "no-image")["waiting"]["message"]


def test_a_command_that_does_not_exist_is_named(bare: LocalCluster) -> None:
    bare.apply(pod("no-command", "nosuch"))
    ended = eventually(lambda: state_of(bare, "no-command").get("terminated"), within=300, what="the failed start")
    assert ended["reason"] == "StartError"
    assert ended["message"] == 'unable to start container process: exec: "nosuch": executable file not found in $PATH'


def test_kubectl_exec_passes_input_output_and_exit_code(web: LocalCluster) -> None:
    run = ("exec", "-i", "deploy/web", "-c", "server", "--")
    assert web.kubectl(*run, "cat", stdin="through and back") == "through and back"
    assert "exit code 7" in web.kubectl(*run, "sh", "-c", "exit 7", check=False)


def test_kubectl_cp_and_port_forward_work(web: LocalCluster) -> None:
    script = """
set -e
kubectl port-forward deploy/web 18080:5000 > forward.log &
trap 'kill $!' EXIT
until grep -q Forwarding forward.log; do sleep 0.1; done
curl --silent --fail http://127.0.0.1:18080/index.html
pod=$(kubectl get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
kubectl cp -c clock forward.log "$pod:/tmp/copied"
kubectl exec "$pod" -c clock -- test -s /tmp/copied && echo ' copied'
"""
    assert web.run("sh", "-c", f"cd $(mktemp -d) && {script}") == "hello copied\n"


def test_deleted_pods_leave_no_device_and_no_route(bare: LocalCluster) -> None:
    bare.apply(pod("goes", "sleep", "1000"))
    bare.kubectl("wait", "--for=condition=Ready", "pod/goes", "--timeout=240s")
    address = bare.get("pod", "goes")["status"]["podIP"]
    device = f"pod{address.split('.', 2)[2]}"
    assert device in bare.run("cat", "/proc/net/dev")
    bare.kubectl("delete", "pod", "goes", "--now")
    eventually(lambda: device not in bare.run("cat", "/proc/net/dev"), within=300, what=f"{device} gone")
