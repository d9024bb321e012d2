"""``python -m kaito_operator gpu-provisioner`` against a test API server and Azure's stand-in, to be killed at will."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.azure import CLUSTER, GROUP, SUBSCRIPTION
from tests.support.control_plane import ApiServer
from tests.support.json_lines import json_lines
from tests.support.ports import free_ports


@dataclass(frozen=True)
class Provisioner:
    """The running process."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics_port: int
    health_port: int

    def kill(self) -> None:
        """SIGKILL, so that nothing is said and nothing is tidied up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return json_lines(self.log)

    def metrics(self) -> str:
        """/metrics; empty while it does not listen."""
        return self._read(self.metrics_port, "/metrics")[1]

    def readiness(self) -> tuple[int, str]:
        """/readyz; 0 while it does not listen."""
        return self._read(self.health_port, "/readyz")

    def _read(self, port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except urllib.error.URLError:
            return 0, ""


def environment(namespace: str, *, endpoint: str = "", **settings: str) -> dict[str, str]:
    """The variables of a process, but for its ports: ours, and of the test's own those that are nobody's settings."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "ARM_", "KAITO_"))},
        "RELEASE_NAMESPACE": namespace,
        "POD_NAME": "provisioner",
        "ARM_SUBSCRIPTION_ID": SUBSCRIPTION,
        "ARM_RESOURCE_GROUP": GROUP,
        "AZURE_CLUSTER_NAME": CLUSTER,
        "KAITO_AZURE_ENDPOINT": endpoint,
        **settings,
    }


@contextmanager
def provisioner(
    server: ApiServer, namespace: str, log: Path, *, endpoint: str = "", **settings: str
) -> Iterator[Provisioner]:
    """Started, and gone at the end; ``settings``: variables that differ. All processes of a namespace are one pod."""
    metrics, health = free_ports(2)
    ports = {"KAITO_METRICS_PORT": str(metrics), "KAITO_HEALTH_PORT": str(health)}
    variables = environment(namespace, endpoint=endpoint, **ports, **settings)
    command = [sys.executable, "-m", "kaito_operator", "gpu-provisioner", "--kubeconfig", str(server.kubeconfig())]
    with log.open("ab") as out, subprocess.Popen(command, env=variables, stderr=out, stdout=out) as running:
        try:
            yield Provisioner(running, log, metrics, health)
        finally:
            running.kill()
