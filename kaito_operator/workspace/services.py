"""The Service of a Workspace: 80 for HTTP, 29500 for torch, a LoadBalancer where the annotation says so."""

from kaito_operator.api import labels
from kaito_operator.plan import Manifest
from kaito_operator.workspace.observe import Observed

HTTP_PORT = 5000
TORCH_PORT = 29500


def service(seen: Observed) -> Manifest:
    """Reaches the pods of the Workspace."""
    balanced = seen.annotations.get(labels.ENABLE_LB, "").lower() == "true"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(seen),
        "spec": {
            "type": "LoadBalancer" if balanced else "ClusterIP",
            "selector": {labels.WORKSPACE: seen.key.name},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": HTTP_PORT},
                {"name": "torch", "protocol": "TCP", "port": TORCH_PORT, "targetPort": TORCH_PORT},
            ],
        },
    }


def endpoint(seen: Observed) -> str:
    """Where the model answers, for those inside the cluster."""
    return f"http://{seen.key.name}.{seen.key.namespace}.svc/chat"


def owned_metadata(seen: Observed) -> Manifest:
    """Name, labels and controller of a namespaced object that goes with its Workspace."""
    return {
        "name": seen.key.name,
        "namespace": seen.key.namespace,
        "labels": standard_labels(seen),
        "ownerReferences": [
            {
                "apiVersion": seen.subject.ref.api_version,
                "kind": seen.subject.ref.kind,
                "name": seen.key.name,
                "uid": seen.subject.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def standard_labels(seen: Observed) -> dict[str, str]:
    """By which people and we ourselves find what belongs to a Workspace."""
    return {
        labels.WORKSPACE: seen.key.name,
        labels.APP_NAME: "kaito-inference",
        labels.APP_INSTANCE: seen.key.name,
        labels.APP_MANAGED_BY: labels.WORKSPACE_MANAGER,
    }
