"""``python -m kaito_operator workspace`` against a test API server, to be killed at will."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.json_lines import json_lines
from tests.support.ports import free_ports

WATCHED = (
    "configmaps",
    "controllerrevisions",
    "deployments",
    "jobs",
    "machines",
    "nodes",
    "persistentvolumeclaims",
    "pods",
    "services",
    "statefulsets",
    "workspaces",
)
"""The kinds that the Workspace operator follows."""


@dataclass(frozen=True)
class Operator:
    """The running process."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, so that nothing is said and nothing is tidied up."""
        self.process.kill()

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return json_lines(self.log)


@contextmanager
def workspace_operator(kubeconfig: Path, namespace: str, log: Path, **settings: str) -> Iterator[Operator]:
    """Started, and gone at the end. All processes of a namespace are one pod, so the next leads at once."""
    metrics, health = free_ports(2)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KAITO_")},
        "RELEASE_NAMESPACE": namespace,
        "POD_NAME": "operator",
        "KAITO_MODEL_FILES": "baked",
        "KAITO_METRICS_PORT": str(metrics),
        "KAITO_HEALTH_PORT": str(health),
        **settings,
    }
    command = [sys.executable, "-m", "kaito_operator", "workspace", "--kubeconfig", str(kubeconfig)]
    with log.open("ab") as out, subprocess.Popen(command, env=environment, stderr=out, stdout=out) as running:
        try:
            yield Operator(running, log)
        finally:
            running.kill()
