"""Custom resource definitions out of the models. ``python -m kaito_operator.api.crd`` writes them into the charts."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from typing_extensions import override

from kaito_operator.api import kinds, machine, nodeclaim
from kaito_operator.api.kinds import Kind
from kaito_operator.api.schema import structural
from kaito_operator.api.workspace import WorkspaceModel


@dataclass(frozen=True, slots=True)
class Column:
    """What ``kubectl get`` shows. Columns of a priority above 0 appear with ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """A custom resource: the model, and how it is called."""

    kind: Kind
    model: type[BaseModel]
    columns: tuple[Column, ...]
    categories: tuple[str, ...]
    short_names: tuple[str, ...] = ()


def condition_column(type: str, *, name: str = "") -> Column:
    """The status of one condition."""
    return Column(name or type, f'.status.conditions[?(@.type=="{type}")].status')


AGE = Column("Age", ".metadata.creationTimestamp", "date")
WORKSPACE = Resource(
    kinds.WORKSPACE,
    WorkspaceModel,
    columns=(
        Column("Instance", ".resource.instanceType"),
        condition_column("ResourceReady"),
        condition_column("InferenceReady"),
        condition_column("WorkspaceReady"),
        AGE,
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
        Column("Endpoint", ".status.endpoint", priority=1),
    ),
    categories=("workspace", "ai"),
    short_names=("wk", "wks"),
)
MACHINE = Resource(
    kinds.MACHINE,
    machine.Machine,
    columns=tuple(Column(name, path, type, priority) for name, type, path, priority in machine.COLUMNS),
    categories=("karpenter",),
)
NODECLAIM = Resource(
    kinds.NODECLAIM,
    nodeclaim.NodeClaim,
    columns=tuple(Column(name, path, type, priority) for name, type, path, priority in nodeclaim.COLUMNS),
    categories=("karpenter",),
)
FILES = {
    "charts/workspace/files/crds/kaito.sh_workspaces.yaml": WORKSPACE,
    "charts/gpu-provisioner/files/crds/karpenter.sh_machines.yaml": MACHINE,
    # Not under files/crds/: where Karpenter runs, the kind is Karpenter's to install.
    "charts/gpu-provisioner/files/karpenter.sh_nodeclaims.yaml": NODECLAIM,
}


def definition(resource: Resource) -> dict[str, Any]:
    """The CustomResourceDefinition. Raises Unsupported."""
    kind = resource.kind
    group, _, version = kind.api_version.partition("/")
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{group}"},
        "spec": {
            "group": group,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "categories": list(resource.categories),
                **({"shortNames": list(resource.short_names)} if resource.short_names else {}),
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in resource.columns],
                    "schema": {"openAPIV3Schema": _root(resource.model)},
                }
            ],
        },
    }


def as_yaml(resource: Resource) -> str:
    """The file's text."""
    text: str = yaml.dump(definition(resource), Dumper=_WithoutAliases, sort_keys=False, width=110, allow_unicode=True)
    return f"# Written by `make crds` from kaito_operator/api; do not edit.\n{text}"


class _WithoutAliases(yaml.SafeDumper):
    """People read the file, so nothing in it points elsewhere."""

    @override
    def ignore_aliases(self, data: object) -> bool:
        return True


def _root(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of the whole object; the API server describes metadata itself."""
    schema = structural(model)
    fixed = {
        "apiVersion": {"type": "string", "description": "The version of this schema."},
        "kind": {"type": "string", "description": "The kind of the object."},
        "metadata": {"type": "object"},
    }
    return {**schema, "properties": {**fixed, **schema["properties"]}}


def _column(column: Column) -> dict[str, Any]:
    entry = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**entry, "priority": column.priority} if column.priority else entry


def main(arguments: Sequence[str] = ()) -> int:
    """Writes the files below the directory given, by default the current one."""
    top = Path(arguments[0] if arguments else ".")
    for name, resource in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(as_yaml(resource))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
