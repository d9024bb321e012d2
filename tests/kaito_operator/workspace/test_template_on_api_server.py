"""A pod template of the user's own on a real API server: however it is written, it is written once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_operator.workspace import children
from tests.kaito_operator.workspace.test_template import deployed_as
from tests.support.control_plane import ApiServer

pytestmark = pytest.mark.controlplane
EXAMPLE = Path(__file__).parents[3] / "examples/05-template/workspace.yaml"
PLAIN = {"name": "mine", "image": "r.io/x:1"}
WRITTEN: dict[str, dict[str, Any]] = {
    "the example": yaml.safe_load(EXAMPLE.read_text())["inference"]["template"],
    "ports without names": {"spec": {"containers": [{**PLAIN, "ports": [{"containerPort": 1}, {"containerPort": 2}]}]}},
    "one port of two with a name": {
        "spec": {"containers": [{**PLAIN, "ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2}]}]}
    },
    "amounts in other forms": {
        "spec": {
            "containers": [
                {
                    **PLAIN,
                    "resources": {
                        "limits": {"nvidia.com/gpu": 1, "memory": "1024Mi"}, "requests": {"cpu": "1000m", "memory": 1e9}
                    },
                }
            ]
        }
    },
    "what says nothing": {"spec": {"containers": [{**PLAIN, "args": [], "env": [{"name": "A", "value": ""}]}]}},
}  # fmt: skip


@pytest.mark.parametrize("case", WRITTEN)
def test_a_template_that_is_stored_leaves_nothing_to_write(api_server: ApiServer, namespace: str, case: str) -> None:
    wanted = deployed_as(WRITTEN[case])
    wanted = {**wanted, "metadata": {**wanted["metadata"], "namespace": namespace, "ownerReferences": []}}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{wanted['metadata']['name']}"
    stored = api_server.apply(path, wanted)
    stored["metadata"]["ownerReferences"] = []
    assert children.holds(stored, wanted)
    changed = copy.deepcopy(stored)
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "r.io/another:1"
    assert not children.holds(changed, wanted)
