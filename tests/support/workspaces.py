"""Workspaces as a user writes them, for tests that send them to a real API server."""

from typing import Any


def workspace_of(
    name: str, *, count: int = 1, instance_type: str = "Standard_D2s_v5", app: str = "", **body: Any
) -> dict[str, Any]:
    """``body``: inference or tuning."""
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {
            "count": count,
            "instanceType": instance_type,
            "labelSelector": {"matchLabels": {"app": app or name}},
        },
        **(body or {"inference": {"preset": {"name": "smollm2-135m-instruct"}}}),
    }
