"""One local cluster for all system tests of a run."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import ARM, LocalCluster

CHAT = {
    "prompt": "What is the capital of France?",
    "return_full_text": False,
    "generate_kwargs": {"do_sample": False, "max_length": 60},
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """A running local cluster with both operators, torn down after the last test.

    Where KAITO_AUDIT_LOG names a file, its audit log is kept there, for ``python -m scripts.permissions``.
    """
    local = LocalCluster(f"test-{os.getpid()}")
    try:
        local.up()
        yield local
        if keep := os.environ.get("KAITO_AUDIT_LOG"):
            shutil.copy(local.audit_log, keep)
    finally:
        local.down()


def clear(cluster: LocalCluster) -> None:
    """Deletes what a failed test left, so that it fails alone."""
    cluster.kubectl("delete", "workspaces", "--all", "--all-namespaces", "--timeout=180s")


@pytest.fixture(scope="module", autouse=True)
def cleared(cluster: LocalCluster) -> Iterator[None]:
    """Each file of tests begins on a cluster without Workspaces."""
    yield
    clear(cluster)


def workspace_yaml(name: str, *, instance_type: str = "Standard_D2s_v5", preset: str = "smollm2-135m-instruct") -> str:
    """A Workspace like that of the first example."""
    return f"""
apiVersion: kaito.sh/v1alpha1
kind: Workspace
metadata: {{name: {name}, namespace: default}}
resource:
  instanceType: {instance_type}
  labelSelector: {{matchLabels: {{app: {name}}}}}
inference:
  preset: {{name: {preset}}}
"""


def condition(workspace: dict[str, Any], type: str) -> dict[str, Any]:
    """One condition of a Workspace; empty while it has none."""
    found = [c for c in workspace.get("status", {}).get("conditions", []) if c["type"] == type]
    return found[0] if found else {}


def ready(cluster: LocalCluster, name: str) -> bool:
    """Whether WorkspaceReady is True."""
    return condition(cluster.get("workspace", name), "WorkspaceReady").get("status") == "True"


def pools(cluster: LocalCluster) -> list[dict[str, Any]]:
    """What the cloud holds, asked of the cloud."""
    found: list[dict[str, Any]] = cluster.http(f"{ARM}/control/pools")
    return found
