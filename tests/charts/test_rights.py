"""The operators' rights: what they used in a recorded run of the system tests, and why they have the others."""

import json
from functools import partial

import pytest

from scripts.permissions import Right, granted, recorded, used
from tests.charts.test_charts import CHARTS, rendered
from tests.support.control_plane import ApiServer, Refused
from tests.support.waiting import eventually

pytestmark = pytest.mark.security

APPLIED = "an apply of an object that is not there is authorized as a create too, which the audit log does not show"
REFRESHED = "a write that another one overtook is followed by a look at the object; nobody overtook in the recorded run"
NOT_RECORDED: dict[Right, str] = {
    **{
        Right("workspace", group, resource, "create"): APPLIED
        for group, resource in (
            ("", "configmaps"), ("", "persistentvolumeclaims"), ("", "services"), ("apps", "deployments"),
            ("batch", "jobs"), ("karpenter.sh", "machines"), ("karpenter.sh", "nodeclaims"),
        )
    },
    **{
        Right("workspace", "apps", "statefulsets", verb): "one copy of a model on several machines; none was recorded"
        for verb in ("get", "create", "patch", "delete")
    },
    **{
        Right("workspace", "apps", "controllerrevisions", verb): "kept when a Workspace is edited; none was recorded"
        for verb in ("get", "create", "patch", "delete")
    },
    Right("workspace", "", "nodes", "get"): REFRESHED,
    Right("workspace", "", "nodes", "patch"): "nodes of one's own are held by a label; all nodes were bought",
    Right("gpu-provisioner", "", "nodes", "delete"): "a Node whose machine is gone is collected; none was left over",
    Right("gpu-provisioner", "", "pods/eviction", "create"): "pods leave a node before it goes; none was left on one",
    Right("gpu-provisioner", "", "pods", "delete"): "a pod that is not evicted in time is deleted; see drainSeconds",
    Right("gpu-provisioner", "karpenter.sh", "nodeclaims", "list"): "looked at when pools are collected",
}  # fmt: skip
"""Rights of the default values that no request of the recorded run shows."""


@pytest.mark.parametrize("chart", CHARTS)
def test_every_right_was_used_or_has_a_reason(chart: str) -> None:
    given = granted(chart, rendered(chart))
    assert given - recorded() - NOT_RECORDED.keys() == set(), "not used: take the right away, or say why it is there"
    assert {right for right in recorded() if right.chart == chart} - given == set(), "used and no longer given"


def test_no_reason_outlives_its_right() -> None:
    given = {right for chart in CHARTS for right in granted(chart, rendered(chart))}
    given |= granted("workspace", rendered("workspace", "nodeProvisioner=nodeclaim"))
    assert NOT_RECORDED.keys() - given == set()
    assert NOT_RECORDED.keys() & recorded() == set(), "it was used after all: the reason can go"


POST_MORTEM = {
    Right("workspace", "", "events", "list"),
    Right("workspace", "karpenter.azure.com", "aksnodeclasses", "get"),
    Right("workspace", "karpenter.k8s.aws", "ec2nodeclasses", "get"),
}
"""What a claim that is gone leaves behind: its events, and the word of its node class."""


def test_the_other_provisioner_takes_the_place_of_the_one_and_adds_what_tells_why_claims_go() -> None:
    machines = granted("workspace", rendered("workspace"))
    claims = granted("workspace", rendered("workspace", "nodeProvisioner=nodeclaim"))
    in_place = {r._replace(resource="machines") if r.resource == "nodeclaims" else r for r in claims}
    assert (in_place - machines, machines - in_place) == (POST_MORTEM, set())


def test_a_log_is_read_by_whose_request_it_was_and_whether_it_was_allowed() -> None:
    def line(user: str, verb: str, *, decision: str = "allow", **about: str) -> str:
        who = {"username": f"system:serviceaccount:kaito-system:{user}"}
        notes = {"authorization.k8s.io/decision": decision}
        return json.dumps({"user": who, "verb": verb, "objectRef": about, "annotations": notes}) + "\n"

    log = [
        line("kaito-workspace", "patch", apiGroup="kaito.sh", resource="workspaces", subresource="status"),
        line("kaito-workspace", "delete", decision="forbid", resource="nodes"),
        line("somebody-else", "list", resource="pods"),
        line("kaito-gpu-provisioner", "list", resource="pods"),
        line("kaito-gpu-provisioner", "get", resource="nodes")[:-1],
    ]
    assert set(used(log)) == {
        Right("workspace", "kaito.sh", "workspaces/status", "patch"),
        Right("gpu-provisioner", "", "pods", "list"),
    }


@pytest.mark.controlplane
def test_an_apply_of_what_is_not_there_needs_the_right_to_create(api_server: ApiServer, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/made"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}
    role = {"metadata": {"name": "patches"}, "rules": [rule]}
    api_server.ask("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles", role)
    binding = {
        "metadata": {"name": "patches"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patches"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "stranger"}],
    }
    api_server.ask("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", binding)
    stranger = ApiServer(api_server.plane, {**api_server.tokens, "admin": api_server.tokens["stranger"]})
    may = partial(api_server.allows, "stranger", "patch", "configmaps", namespace=namespace)
    eventually(may, within=20, what="the role counts")
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}}
    with pytest.raises(Refused, match='cannot create resource \\\\"configmaps'):
        stranger.apply(path, manifest)
    api_server.apply(path, manifest)
    assert stranger.apply(path, manifest)["metadata"]["name"] == "made"


def test_the_record_is_of_both_operators() -> None:
    assert {right.chart for right in recorded()} == set(CHARTS)
