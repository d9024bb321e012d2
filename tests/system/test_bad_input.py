"""What a user can get wrong on a running cluster: refused with a reason, or a condition that says what to write."""

import pytest

from tests.support.cluster import LocalCluster, eventually
from tests.system.conftest import condition, workspace_yaml

pytestmark = [pytest.mark.system, pytest.mark.badinput]

TUNING = """
tuning:
  preset: {name: phi-3-mini-128k-instruct}
  method: qlora
  input: {urls: ["https://example.com/rows.parquet"]}
  output: {image: "example.com/team/out:1", imagePushSecret: push}
"""
NEITHER = workspace_yaml("neither").split("inference:")[0]

REFUSED = {
    "neither inference nor tuning": (NEITHER, "exactly one of inference and tuning"),
    "both": (workspace_yaml("both") + TUNING.lstrip(), "exactly one of inference and tuning"),
    "a name longer than a label": (workspace_yaml("a" * 64), "63"),
    "count 0": (workspace_yaml("none").replace("resource:", "resource:\n  count: 0"), "count"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_shape_is_refused_by_kubectl_apply(cluster: LocalCluster, case: str) -> None:
    manifest, says = REFUSED[case]
    answer = cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifest, check=False)
    assert says in answer
    assert cluster.items("workspaces") == [] or "created" not in answer


CONDITIONED = {
    "unknown preset": ({"preset": "smollm2-135m-instrct"}, "smollm2-135m-instruct"),
    "unknown instance type": ({"instance_type": "Standard_NC999"}, "Standard_NC"),
    "machine too small": ({"preset": "falcon-40b", "instance_type": "Standard_NC6s_v3"}, "Standard_N"),
}


@pytest.mark.parametrize("case", CONDITIONED)
def test_what_needs_the_catalogue_is_said_in_a_condition_and_buys_nothing(cluster: LocalCluster, case: str) -> None:
    changed, says = CONDITIONED[case]
    name = case.replace(" ", "-")
    cluster.apply(workspace_yaml(name, **changed))
    told = eventually(
        lambda: condition(cluster.get("workspace", name), "WorkspaceReady"), within=300, what="WorkspaceReady"
    )
    assert told["status"] == "False"
    assert says in told["message"]
    assert cluster.items("machines") == []
    cluster.kubectl("delete", "workspace", name, "--timeout=240s")
