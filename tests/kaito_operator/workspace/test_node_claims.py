"""Machines asked for with NodeClaims: the ten rules that a real Karpenter taught, and its last words."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.installation import installation
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.purchase import NodeClass, node_claims
from tests.support import planning
from tests.support.builders import NOON, UID, a_machine, a_node, a_workspace, condition
from tests.support.planning import applied, conditions, deleted

CLAIMS = replace(
    planning.INSTALLATION, purchase=node_claims(NodeClass("karpenter.azure.com", "AKSNodeClass", "default"))
)
planned = partial(planning.planned, installation=CLAIMS)
FIRST = machine_name(UID, slot=0, attempt=1)
GPUS = a_workspace(preset="falcon-40b", instance_type="Standard_NC48ads_A100_v4", count=2)
STEPS = ("Launched", "Registered", "Initialized", "Ready")


def a_claim(*entries: Mapping[str, Any], node: str = "", age: float = 3600, **others: Any) -> dict[str, Any]:
    """A NodeClaim of the Workspace."""
    created = (NOON - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = a_machine(FIRST, created=created, conditions=[dict(entry) for entry in entries], node=node, **others)
    return {**made, "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim"}


def ready(**others: Any) -> dict[str, Any]:
    return a_claim(*(condition(step, "True", step) for step in STEPS), node="n", **others)


def launching(reason: str, message: str = "", **others: Any) -> dict[str, Any]:
    return a_claim(condition("Launched", "Unknown", reason, message), condition("Ready", "Unknown", "R"), **others)


def told(reason: str, message: str, *, seconds_ago: float = 0, status: str = "False") -> dict[str, Any]:
    """The status of a Workspace that has said this of its claims."""
    since = (NOON - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"conditions": [condition("NodeClaimReady", status, reason, message, since=since)]}


def test_the_claims_are_as_people_have_read_them(golden: Callable[[str, Any], None]) -> None:
    golden("workspace/node-claims", applied(planned(GPUS), "NodeClaim"))


def test_a_claim_holds_no_finalizer_never_expires_and_is_not_spot() -> None:
    for claim in applied(planned(GPUS), "NodeClaim"):
        assert "finalizers" not in claim["metadata"]
        assert "ownerReferences" not in claim["metadata"]
        assert claim["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
        assert claim["spec"]["expireAfter"] == "Never"
        asked = {each["key"]: each["values"] for each in claim["spec"]["requirements"]}
        assert asked["karpenter.sh/capacity-type"] == ["on-demand"]
        assert "resources" not in claim["spec"]


def test_the_condition_is_named_after_the_claim() -> None:
    found = conditions(planned(a_workspace()))
    assert found["NodeClaimReady"][:2] == ("Unknown", "CreateMachinePending")
    assert "MachineReady" not in found
    assert found["ResourceReady"][2] == "waits for NodeClaimReady"


def test_a_claim_that_is_ready_and_its_node_are_used() -> None:
    todo = planned(a_workspace(), ready(), a_node("n", held_by="chat"))
    assert applied(todo, "NodeClaim") == []
    assert conditions(todo)["NodeClaimReady"][0] == "True"
    assert len(applied(todo, "Deployment")) == 1


REGISTERED = {"app": "chat", "karpenter.sh/registered": "true"}


def test_a_node_that_lost_its_protection_gets_it_back() -> None:
    bare = a_node("n", held_by="chat", labels=REGISTERED)
    todo = planned(a_workspace(), ready(), bare)
    assert [node["metadata"] for node in applied(todo, "Node")] == [
        {"name": "n", "annotations": {"karpenter.sh/do-not-disrupt": "true"}}
    ]
    kept = a_node("n", held_by="chat", labels=REGISTERED, annotations={"karpenter.sh/do-not-disrupt": "true"})
    assert applied(planned(a_workspace(), ready(), kept), "Node") == []


def test_a_node_that_has_not_registered_yet_is_left_to_karpenter() -> None:
    assert applied(planned(a_workspace(), ready(), a_node("n", held_by="chat")), "Node") == []


def test_ready_is_no_word_of_a_claim_that_is_being_deleted() -> None:
    todo = planned(a_workspace(), ready(deleting=True), a_node("n", held_by="chat"))
    assert conditions(todo)["NodeClaimReady"][:2] == ("False", "MachineTerminating")
    assert applied(todo, "NodeClaim") == []


def test_ready_is_no_word_of_its_node() -> None:
    todo = planned(a_workspace(), ready(), a_node("n", held_by="chat", ready=False))
    assert conditions(todo)["ResourceReady"][:2] == ("False", "NodeNotReady")


def test_a_claim_nobody_manages_is_told_after_two_minutes() -> None:
    status, reason, message = conditions(planned(a_workspace(), a_claim(age=120)))["NodeClaimReady"]
    assert (status, reason) == ("False", "ProvisionerNotAnswering")
    assert "a Karpenter runs that knows the node class" in message


def test_what_is_in_progress_is_unknown() -> None:
    found = conditions(planned(a_workspace(), launching("AwaitingReconciliation", "object is awaiting reconciliation")))
    assert found["NodeClaimReady"][:2] == ("Unknown", "CreateMachinePending")


WHY = "creating the machine: the subnet has no addresses left"
LAST_WORDS = f"NodeClaim {FIRST} (Standard_D2s_v5): {WHY}"


@pytest.mark.parametrize("reason", ["LaunchFailed", "ProvidersOwnReason"])
def test_a_failed_launch_is_told_before_the_claim_is_deleted(reason: str) -> None:
    todo = planned(a_workspace(), launching(reason, WHY))
    assert conditions(todo)["NodeClaimReady"] == ("False", "LaunchFailed", LAST_WORDS)
    assert deleted(todo) == []


def test_once_told_a_claim_that_cannot_be_launched_goes_so_that_others_can() -> None:
    workspace = a_workspace(status=told("LaunchFailed", LAST_WORDS))
    assert deleted(planned(workspace, launching("LaunchFailed", WHY))) == [f"NodeClaim {FIRST}"]


def test_it_gets_half_a_minute_of_tries_first() -> None:
    workspace = a_workspace(status=told("LaunchFailed", LAST_WORDS))
    todo = planned(workspace, launching("LaunchFailed", WHY, age=29))
    assert deleted(todo) == []
    assert todo.look_again == 1.0, "no event tells that the time is over: a condition that stays the same is none"


ASKED = {"slot": 0, "attempt": 1, "name": FIRST}
LOST_AT = "2026-01-02T12:00:30Z"


def test_its_last_words_stay_while_it_is_waited_for_the_next() -> None:
    gone = planned(a_workspace(status={**told("LaunchFailed", LAST_WORDS), "machines": [ASKED]}))
    assert applied(gone, "NodeClaim") == []
    assert gone.look_again == 30.0
    assert gone.report[0].status["machines"] == [
        {
            "slot": 0,
            "attempt": 2,
            "losses": 1,
            "reason": "LaunchFailed",
            "message": LAST_WORDS,
            "notBefore": LOST_AT,
        }
    ]
    assert conditions(gone)["NodeClaimReady"] == (
        "False",
        "LaunchFailed",
        f"{LAST_WORDS}. Machine number 2 for its place is asked for at {LOST_AT}",
    )
    waiting = planned(a_workspace(status=gone.report[0].status), now=NOON + timedelta(seconds=10))
    assert (waiting.apply, waiting.report, waiting.look_again) == ((), (), 20.0)


def test_a_claim_that_vanishes_at_once_is_not_asked_for_at_once_again() -> None:
    asked = told("CreateMachinePending", "1 Machine of Standard_D2s_v5 is asked for", status="Unknown")
    todo = planned(a_workspace(status={**asked, "machines": [ASKED]}))
    assert applied(todo, "NodeClaim") == []
    status, reason, message = conditions(todo)["NodeClaimReady"]
    assert (status, reason) == ("False", "MachineBackOff")
    assert message.startswith(f"{FIRST} went before it was ready. Machine number 2")
    assert todo.look_again == 3.0, "an event that says why may be on its way"
    later = planned(a_workspace(status=todo.report[0].status), now=NOON + timedelta(seconds=30))
    assert [c["metadata"]["name"] for c in applied(later, "NodeClaim")] == [machine_name(UID, slot=0, attempt=2)]


@pytest.mark.parametrize(
    ("cloud", "named", "kind"),
    [
        ("azure", "", "AKSNodeClass"),
        ("aws", "", "EC2NodeClass"),
        ("azure", "kaito.sh/KaitoNodeClass/x", "KaitoNodeClass"),
    ],
)
def test_the_class_is_the_clouds_unless_one_is_named(cloud: str, named: str, kind: str) -> None:
    given = {"CLOUD_PROVIDER": cloud, "KAITO_NODE_CLASS": named, "KAITO_NODE_PROVISIONER": "nodeclaim"}
    found = installation(WorkspaceSettings.model_validate(given)).purchase
    assert found.node_class is not None
    assert found.node_class.kind == kind
