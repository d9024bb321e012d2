"""A pod template of the user's own: kept as it is, placed where it was paid for, and its mistakes told."""

from typing import Any

from kaito_operator.api.kinds import DEPLOYMENT
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Refusal
from kaito_operator.workspace.observe import observe
from kaito_operator.workspace.plan import plan
from presets.catalog import load_catalog
from tests.support.builders import NOON, a_container, a_node, a_pod, a_workspace, stored
from tests.support.planning import INSTALLATION, applied, conditions, planned

CONTAINER = {
    "name": "mine",
    "image": "r.io/team/server:1",
    "ports": [{"containerPort": 8000}],
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
}
ZONE = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
TEMPLATE = {
    "metadata": {"labels": {"mine": "yes", "kaito.sh/workspace": "another"}, "annotations": {"scrape": "true"}},
    "spec": {
        "containers": [CONTAINER],
        "tolerations": [{"key": "mine", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [ZONE, {}]}}
        },
    },
}
NODE = a_node("n", gpus=1, held_by="chat")


def workspace(**changes: Any) -> dict[str, Any]:
    return a_workspace(inference={"template": TEMPLATE}, instance_type="", **changes)


def deployed_as(template: dict[str, Any]) -> dict[str, Any]:
    """The Deployment that is written for it."""
    todo = planned(a_workspace(inference={"template": template}, instance_type=""), NODE)
    (found,) = applied(todo, "Deployment")
    return dict(found)


def deployed(template: dict[str, Any]) -> dict[str, Any]:
    return dict(deployed_as(template)["spec"]["template"])


def test_once_it_is_deployed_nothing_is_left_to_write_and_its_pods_are_told_of() -> None:
    """Its port has no name by which lists could be compared."""
    first = planned(workspace(), NODE)
    there = [*map(stored, applied(first, "Service")), *map(stored, applied(first, "Deployment"))]
    pod = a_pod(node="n", containers=[a_container(waiting={"reason": "ErrImagePull", "message": "not found"})])
    todo = planned(workspace(), NODE, *there, pod)
    assert (todo.apply, todo.delete) == ((), ())
    assert conditions(todo)["InferenceReady"][1] == "ImagePullError"


def test_the_template_is_kept_and_only_what_places_it_is_added() -> None:
    pod = deployed(TEMPLATE)
    assert pod["spec"]["containers"] == [CONTAINER]
    assert pod["metadata"]["annotations"] == {"scrape": "true"}
    assert pod["metadata"]["labels"]["mine"] == "yes"
    assert {"key": "mine", "operator": "Exists"} in pod["spec"]["tolerations"]
    assert {"key": "sku", "effect": "NoSchedule", "operator": "Equal", "value": "gpu"} in pod["spec"]["tolerations"]


def test_its_labels_cannot_claim_another_workspace() -> None:
    assert deployed(TEMPLATE)["metadata"]["labels"]["kaito.sh/workspace"] == "chat"


def test_every_one_of_its_node_terms_is_kept_to_the_nodes_that_are_held() -> None:
    affinity = deployed(TEMPLATE)["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    keys = [[each["key"] for each in term["matchExpressions"]] for term in terms]
    held = ["app", "kaito.sh/workspace", "kaito.sh/workspacenamespace"]
    assert keys == [["zone", *held], held]


def test_the_service_leads_to_the_port_it_names() -> None:
    (service,) = applied(planned(workspace(), NODE), "Service")
    assert [port["targetPort"] for port in service["spec"]["ports"]] == [8000, 29500]


def test_it_waits_for_as_many_gpus_as_its_containers_ask_for() -> None:
    few = a_node("n", gpus=0, capacity=1, held_by="chat", ready_since="2026-01-02T11:59:00Z")
    told = conditions(planned(workspace(), few))["ResourceReady"]
    assert told == ("Unknown", "workspaceResourceStatusNotReady", "Node n advertises 0 of 1 nvidia.com/gpu")


def test_a_template_that_the_api_server_refuses_is_told_and_not_sent_again() -> None:
    mirror = Mirror()
    for manifest in (workspace(), NODE):
        mirror.put(manifest)
    first = planned(workspace(), NODE)
    (refused,) = applied(first, "Deployment")
    mirror.refuse(Refusal(refused, "spec.template.spec.containers[0].image: Required value"))

    seen = observe(mirror, Key("team", "chat"))
    assert seen is not None
    todo = plan(seen, NOON, catalog=load_catalog(), installation=INSTALLATION)
    assert applied(todo, "Deployment") == []
    status, reason, message = conditions(todo)["InferenceReady"]
    assert (status, reason) == ("False", "WorkloadRefused")
    assert "containers[0].image: Required value" in message
    assert mirror.refusal(DEPLOYMENT, "chat", "team") is not None
