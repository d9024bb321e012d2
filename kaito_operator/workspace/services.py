"""The Service of a Workspace: its name, port 80 for HTTP and 29500 for torch."""

from collections.abc import Mapping
from typing import Any

from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Manifest
from kaito_operator.workspace import children

HTTP_PORT = 5000
TORCH_PORT = 29500


HEADLESS = "headless"
FIRST_POD = "statefulset.kubernetes.io/pod-name"


def service(workspace: Workspace, *, component: str, port: int = HTTP_PORT, first_alone: bool = False) -> Manifest:
    """Leads to a port of the pods of one workload; a load balancer where the annotation asks for one.

    ``first_alone``: one copy of the model is on all pods together, and the first of them answers.
    """
    selected = children.selector(workspace, component=component)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": children.metadata(workspace, component=component),
        "spec": {
            "type": "LoadBalancer" if workspace.load_balanced else "ClusterIP",
            "selector": {**selected, **({FIRST_POD: f"{workspace.key.name}-0"} if first_alone else {})},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": port},
                {"name": "torch", "protocol": "TCP", "port": TORCH_PORT, "targetPort": TORCH_PORT},
            ],
        },
    }


def headless_name(workspace: Workspace) -> str:
    """Of the Service that gives each pod of a StatefulSet a name."""
    return f"{workspace.key.name}-{HEADLESS}"


def first_pod(workspace: Workspace) -> str:
    """The name at which the pods of a StatefulSet find the first of them."""
    return f"{workspace.key.name}-0.{headless_name(workspace)}.{workspace.key.namespace}.svc.cluster.local"


def headless(workspace: Workspace, *, component: str) -> Manifest:
    """Names for the pods, also before they are ready: they load the model together."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": children.metadata(workspace, component=component, name=headless_name(workspace)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": children.selector(workspace, component=component),
            "ports": [{"name": "torch", "protocol": "TCP", "port": TORCH_PORT, "targetPort": TORCH_PORT}],
        },
    }


def endpoint(service: Manifest | None) -> str:
    """Where the model answers: at the load balancer, else at the ClusterIP, which needs no DNS. "" if nowhere yet."""
    if service is None:
        return ""
    balancer = (service.get("status") or {}).get("loadBalancer") or {}
    outside = [_address(entry) for entry in balancer.get("ingress") or ()]
    inside = service.get("spec", {}).get("clusterIP", "")
    address = next(filter(None, outside), "" if inside == "None" else inside)
    return f"http://[{address}]" if ":" in address else f"http://{address}" if address else ""


def _address(ingress: Mapping[str, Any]) -> str:
    return str(ingress.get("ip") or ingress.get("hostname") or "")
