"""What is written for every source of model files, on a real API server: it is taken, and nothing in it is dropped."""

from typing import Any

import pytest

from kaito_operator.api.kinds import BY_NAME
from kaito_operator.workspace import children
from tests.kaito_operator.workspace.test_model_files import SHAPES, on_its_nodes
from tests.support.control_plane import ApiServer

pytestmark = pytest.mark.controlplane


@pytest.mark.parametrize("case", SHAPES)
def test_what_is_written_is_taken_and_leaves_nothing_to_write(api_server: ApiServer, namespace: str, case: str) -> None:
    """A field that the API server drops or changes would be written again for ever."""
    taken = 0
    for step in on_its_nodes(*SHAPES[case]).apply:
        kind = BY_NAME[step.manifest["apiVersion"], step.manifest["kind"]]
        if not kind.namespaced:
            continue
        meta = {**step.manifest["metadata"], "namespace": namespace}
        group = "/api/v1" if kind.api_version == "v1" else f"/apis/{kind.api_version}"
        path = f"{group}/namespaces/{namespace}/{kind.plural}/{meta['name']}"
        wanted: dict[str, Any] = {**step.manifest, "metadata": {**meta, "ownerReferences": []}}
        stored = api_server.apply(path, wanted)
        assert children.holds({**stored, "metadata": {**stored["metadata"], "ownerReferences": []}}, wanted)
        taken += 1
    assert taken >= 2
