"""The CRDs, from the models: ``python -m kaito_operator.api.crd`` writes them into the charts."""

import sys
from pathlib import Path
from typing import Any

import yaml

from kaito_operator.api import machine, workspace
from kaito_operator.api.kinds import MACHINE, WORKSPACE, Kind
from kaito_operator.api.schema import Schema, structural

CHARTS = Path(__file__).parent.parent.parent / "charts"


def workspace_crd() -> dict[str, Any]:
    """workspaces.kaito.sh"""
    return _crd(
        WORKSPACE,
        schema={**structural(workspace.Workspace), **workspace.ROOT_RULES},
        columns=[{"name": n, "type": t, "jsonPath": p} for n, t, p in workspace.COLUMNS],
        names={"shortNames": ["wk", "wks"], "categories": ["workspace"]},
    )


def machine_crd() -> dict[str, Any]:
    """machines.karpenter.sh"""
    return _crd(
        MACHINE,
        schema=structural(machine.Machine),
        columns=[
            {"name": n, "type": t, "jsonPath": p, **({"priority": r} if r else {})} for n, t, p, r in machine.COLUMNS
        ],
        names={"categories": ["karpenter"]},
    )


def _crd(kind: Kind, *, schema: Schema, columns: list[dict[str, Any]], names: dict[str, Any]) -> dict[str, Any]:
    group, _, version = kind.api_version.partition("/")
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **schema["properties"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                **names,
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": {**schema, "properties": properties}},
                }
            ],
        },
    }


FILES = {
    CHARTS / "workspace/crds/kaito.sh_workspaces.yaml": workspace_crd,
    CHARTS / "gpu-provisioner/crds/karpenter.sh_machines.yaml": machine_crd,
}


def text(crd: dict[str, Any]) -> str:
    """YAML as it is committed."""
    return yaml.safe_dump(crd, sort_keys=False, width=120)


def main() -> int:
    """Writes the files."""
    for path, crd in FILES.items():
        path.write_text(text(crd()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
