"""The Deployment of a pod template of the user's own: as it was given, plus what places it on the Workspace's nodes."""

from collections.abc import Mapping
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.spec import Resource
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Manifest
from kaito_operator.workspace import children, history, pods
from kaito_operator.workspace.inference import COMPONENT
from kaito_operator.workspace.services import HTTP_PORT

NODES = "requiredDuringSchedulingIgnoredDuringExecution"
DISK_GIB = 100
"""Of a machine bought for a template: nobody knows the image, and AKS itself would take 128."""


def gpus(template: Manifest) -> int:
    """GPUs that one pod asks for: of all its containers together, as the scheduler adds them up."""
    found = (container.get("resources") or {} for container in _containers(template))
    return sum(_number({**(each.get("requests") or {}), **(each.get("limits") or {})}) for each in found)


def port(template: Manifest) -> int:
    """Where the Service leads to: the first port that a container names, else KAITO's."""
    named = (each for container in _containers(template) for each in container.get("ports") or ())
    return next((int(each["containerPort"]) for each in named if "containerPort" in each), HTTP_PORT)


def deployment(workspace: Workspace, template: Manifest, resource: Resource) -> Manifest:
    """A rollout takes the old pod away first: there is no spare GPU."""
    meta, spec = template.get("metadata") or {}, template.get("spec") or {}
    selected = children.selector(workspace, component=COMPONENT)
    given = {key: value for key, value in meta.items() if key in ("annotations",) and value}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**children.metadata(workspace, component=COMPONENT), **history.annotations(workspace)},
        "spec": {
            "replicas": resource.count,
            "selector": {"matchLabels": selected},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {
                    **given,
                    "labels": {
                        **(meta.get("labels") or {}),
                        **selected,
                        labels.APP_MANAGED_BY: labels.WORKSPACE_MANAGER,
                    },
                },
                "spec": {
                    **spec,
                    "affinity": _affinity(workspace, spec.get("affinity") or {}, resource=resource, apart=selected),
                    "tolerations": [*(spec.get("tolerations") or ()), *pods.tolerations()],
                },
            },
        },
    }


def _affinity(
    workspace: Workspace, given: Mapping[str, Any], *, resource: Resource, apart: dict[str, str]
) -> dict[str, Any]:
    """Ours, with the user's requirements added: a node must meet both."""
    ours = pods.affinity(workspace, resource.label_selector, apart=apart)
    (held,) = ours["nodeAffinity"][NODES]["nodeSelectorTerms"]
    wanted = given.get("nodeAffinity") or {}
    terms = (wanted.get(NODES) or {}).get("nodeSelectorTerms") or [{}]
    both = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), *held["matchExpressions"]]}
        for term in terms
    ]
    away = given.get("podAntiAffinity") or {}
    return {
        **given,
        "nodeAffinity": {**wanted, NODES: {"nodeSelectorTerms": both}},
        "podAntiAffinity": {**away, NODES: [*(away.get(NODES) or ()), *ours["podAntiAffinity"][NODES]]},
    }


def _containers(template: Manifest) -> list[Mapping[str, Any]]:
    found = (template.get("spec") or {}).get("containers")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _number(resources: Mapping[str, Any]) -> int:
    text = str(resources.get(labels.GPU_RESOURCE, "0"))
    return int(text) if text.isdecimal() else 0
