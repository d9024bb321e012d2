"""The CRDs in the charts are those of the models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_operator.api import crd

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", crd.FILES)
def test_a_committed_crd_is_what_the_models_say(name: str) -> None:
    assert (ROOT / name).read_text() == crd.as_yaml(crd.FILES[name]), "run `make crds`"


def test_the_workspace_is_called_as_kaito_calls_it() -> None:
    spec = crd.definition(crd.WORKSPACE)["spec"]
    assert spec["names"] == {
        "kind": "Workspace",
        "listKind": "WorkspaceList",
        "plural": "workspaces",
        "singular": "workspace",
        "categories": ["workspace", "ai"],
        "shortNames": ["wk", "wks"],
    }
    assert spec["scope"] == "Namespaced"
    columns = [c["name"] for c in spec["versions"][0]["additionalPrinterColumns"] if "priority" not in c]
    assert columns == ["Instance", "ResourceReady", "InferenceReady", "WorkspaceReady", "Age"]


def test_a_machine_belongs_to_no_namespace() -> None:
    assert crd.definition(crd.MACHINE)["spec"]["scope"] == "Cluster"


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from fields(part, f"{path}.{name}")


def test_every_field_of_a_workspace_is_explained() -> None:
    schema = crd.definition(crd.WORKSPACE)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    silent = [path for path, part in fields(schema, "workspace") if "description" not in part]
    assert silent == ["workspace.metadata"]


def test_main_writes_every_file_below_the_directory_given(tmp_path: Path) -> None:
    assert crd.main([str(tmp_path)]) == 0
    written = {str(p.relative_to(tmp_path)): yaml.safe_load(p.read_text())["kind"] for p in tmp_path.rglob("*.yaml")}
    assert written == dict.fromkeys(crd.FILES, "CustomResourceDefinition")
