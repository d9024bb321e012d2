"""What one Machine needs next, gate by gate."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito_operator.gpu_provisioner.agent_pool import agent_pool, owner_tags
from kaito_operator.gpu_provisioner.cloud import AgentPool
from kaito_operator.gpu_provisioner.errors import UNAVAILABLE, Refusal, classified
from kaito_operator.gpu_provisioner.farewell import grace_seconds
from kaito_operator.gpu_provisioner.known import Known, Refused
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.observe import Observed, observe
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.mirror import Mirror
from kaito_operator.plan import (
    Apply,
    CreateInCloud,
    Delete,
    DeleteInCloud,
    Event,
    Finalizer,
    Holding,
    Key,
    LookInCloud,
    Patch,
    Plan,
    Ref,
    Release,
    Selection,
)
from tests.support.machines import a_machine, a_node

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LIMITS = Limits(gone=30, launch=1200, registration=900)
NAME = "ws0123456789"
SIZE = {"node.kubernetes.io/instance-type": "Standard_NC12s_v3"}
OWNER = owner_tags(a_machine(), cluster="prod")
REF = Ref("karpenter.sh/v1alpha5", "Machine", NAME)
QUOTA = Refusal("QuotaExceeded", f"{UNAVAILABLE}: no quota", 600.0, terminal=True)
UNKNOWN, ABSENT = Known(), Known(absent_since=NOON)
STEPS = ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")


def a_pool(state: str, *, owner: dict[str, str] = OWNER, asked: float = 0, problem: Refusal | None = None) -> Known:
    """A pool that was asked for so many seconds before noon."""
    asked_at = NOON - timedelta(seconds=asked)
    return Known(AgentPool(NAME, state, etag="e1", tags=owner, asked_at=asked_at, problem=problem))


def seen(known: Known, *nodes: dict[str, Any], **machine: Any) -> Observed:
    """Our Machine with its label and finalizer on, as the mirror and the pools have it."""

    class Knows:
        def known(self, name: str) -> Known:
            return known if name == NAME else UNKNOWN

    mirror = Mirror()
    mirror.put(a_machine(**{"finalizer": True, "labels": SIZE, **machine}))
    for node in nodes:
        mirror.put(node)
    found = observe(mirror, Key("", NAME), pools=Knows())
    assert found is not None
    return found


def planned(known: Known, *nodes: dict[str, Any], now: datetime = NOON, **machine: Any) -> Plan:
    """The plan for it."""
    return plan(seen(known, *nodes, **machine), now, cluster="prod", limits=LIMITS)


def status(*passed: str, reason: str = "", since: float = 0) -> dict[str, Any]:
    """A status in which these steps are True and the others False, since so many seconds before noon."""
    moment = (NOON - timedelta(seconds=since)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "conditions": [
            {
                "type": step,
                "status": "True" if step in passed else "False",
                "reason": step.removeprefix("Machine") if step in passed else reason,
                "lastTransitionTime": moment,
            }
            for step in STEPS
        ]
    }


def told(todo: Plan) -> dict[str, tuple[str, str]]:
    """Type → status and reason of the conditions that a plan writes."""
    (report,) = todo.report
    return {c["type"]: (c["status"], c["reason"]) for c in report.status["conditions"]}


def test_first_comes_the_finalizer_and_nothing_else() -> None:
    assert planned(UNKNOWN, finalizer=False) == Plan(seen(UNKNOWN).subject, finalizer=Finalizer.ADD)


def test_then_the_pool_is_asked_for() -> None:
    todo = planned(UNKNOWN)
    assert todo.cloud == (CreateInCloud(NAME, agent_pool(a_machine(), cluster="prod", now=NOON)),)
    assert told(todo) == {
        "MachineLaunched": ("False", "Launching"),
        "MachineRegistered": ("False", "MachineNotLaunched"),
        "MachineInitialized": ("False", "MachineNotLaunched"),
        "Ready": ("False", "Launching"),
    }


def test_the_type_column_is_filled_from_the_requirements() -> None:
    (labelled,) = planned(UNKNOWN, labels={}).apply
    assert labelled.manifest["metadata"] == {"name": NAME, "labels": SIZE}
    assert labelled.uid == "machine-uid"


PROGRESS: dict[str, tuple[Known, list[dict[str, Any]], int, str]] = {
    "creating": (a_pool("Creating"), [], 0, "Creating"),
    "updating": (a_pool("Updating"), [], 0, "Creating"),
    "no node yet": (a_pool("Succeeded"), [], 1, "NodeNotFound"),
    "a spare node": (a_pool("Succeeded"), [a_node(), a_node(number=1)], 1, "MultipleNodesFound"),
    "somebody else's node": (a_pool("Succeeded"), [a_node(pool="other")], 1, "NodeNotFound"),
    "node not ready": (a_pool("Succeeded"), [a_node(ready=False)], 2, "NodeNotReady"),
    "node before the pool says Succeeded": (a_pool("Creating"), [a_node(ready=False)], 2, "NodeNotReady"),
    "node being set up": (
        a_pool("Succeeded"),
        [a_node(taints=["node.cloudprovider.kubernetes.io/uninitialized"])],
        2,
        "KnownEphemeralTaintsExist",
    ),
    "ready": (a_pool("Succeeded"), [a_node()], 3, ""),
    "ready, and a later change of the pool failed": (a_pool("Failed"), [a_node()], 3, ""),
}


@pytest.mark.parametrize("case", PROGRESS)
def test_each_step_waits_for_the_one_before(case: str) -> None:
    known, nodes, passed, reason = PROGRESS[case]
    todo = planned(known, *nodes)
    conditions = told(todo)
    assert [conditions[step][0] for step in STEPS[:3]] == ["True"] * passed + ["False"] * (3 - passed)
    assert conditions["Ready"] == (("True", "Ready") if passed == 3 else ("False", reason))
    assert passed == 3 or conditions[STEPS[passed]] == ("False", reason)
    assert todo.cloud == ()


DRIVER = {"key": "driver", "effect": "NoSchedule"}


def with_startup_taints(node: dict[str, Any], *taints: dict[str, str], gpus: int = 0) -> Plan:
    """The plan for a Machine that asks for startup taints, and for GPUs."""
    machine = a_machine(finalizer=True, labels=SIZE)
    machine["spec"]["startupTaints"] = list(taints)
    machine["spec"]["resources"]["requests"]["nvidia.com/gpu"] = str(gpus)
    found = replace(seen(a_pool("Succeeded"), node), machine=machine)
    return plan(found, NOON, cluster="prod", limits=LIMITS)


def test_startup_taints_and_requested_resources_are_waited_for() -> None:
    def reason(node: dict[str, Any]) -> tuple[str, str]:
        return told(with_startup_taints(node, DRIVER, gpus=2))["MachineInitialized"]

    assert reason(our_node(taints=["driver"])) == ("False", "StartupTaintsExist")
    assert reason(our_node()) == ("False", "ResourceNotRegistered")
    assert reason(our_node(gpus=2)) == ("True", "Initialized")
    other = our_node(gpus=2)
    other["spec"]["taints"] = [{"key": "driver", "effect": "PreferNoSchedule"}]
    assert reason(other) == ("True", "Initialized")  # another taint of the key


def test_startup_taints_are_put_onto_a_node_that_joins_in_the_write_that_registers_and_claims_it() -> None:
    node = a_node(taints=["sku"])
    todo = with_startup_taints(node, DRIVER, {"key": "sku", "effect": "NoSchedule"})
    machine = {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine", "name": "ws0123456789", "uid": "machine-uid"}
    written = {
        "/spec/taints": [*node["spec"]["taints"], DRIVER],
        "/metadata/ownerReferences": [{**machine, "blockOwnerDeletion": True}],
        "/metadata/finalizers": ["karpenter.sh/termination"],
        "/metadata/labels/karpenter.sh~1registered": "true",
    }
    operations = tuple({"op": "add", "path": path, "value": value} for path, value in written.items())
    assert todo.patch == (Patch(NODE, "1", operations),)
    assert (todo.apply, told(todo)["Ready"]) == ((), ("False", "StartupTaintsExist"))


def test_a_startup_taint_that_was_taken_off_is_not_put_on_again() -> None:
    assert with_startup_taints(our_node(), DRIVER).patch == ()
    assert with_startup_taints(a_node(labels={"karpenter.sh/registered": "true"}), DRIVER).patch == ()


def test_the_node_becomes_ours_and_tells_the_machine_what_it_is() -> None:
    todo = planned(a_pool("Succeeded"), a_node())
    (claim,) = todo.apply
    assert claim.manifest["metadata"] == {
        "name": f"aks-{NAME}-12345678-vmss000000",
        "labels": {"karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"},
        "ownerReferences": [
            {
                "apiVersion": "karpenter.sh/v1alpha5",
                "kind": "Machine",
                "name": NAME,
                "uid": "machine-uid",
                "blockOwnerDeletion": True,
            }
        ],
        "finalizers": ["karpenter.sh/termination"],
    }
    written = {key: value for key, value in todo.report[0].status.items() if key != "conditions"}
    assert written == {
        "nodeName": f"aks-{NAME}-12345678-vmss000000",
        "providerID": a_node()["spec"]["providerID"],
        "capacity": {"cpu": "12"},
        "allocatable": {"cpu": "11"},
    }


def test_a_transition_is_an_event_and_the_next_pass_tells_nothing() -> None:
    first = planned(a_pool("Succeeded"), a_node())
    assert [(event.type, event.reason) for event in first.events] == [
        ("Normal", "Launched"),
        ("Normal", "Registered"),
        ("Normal", "Initialized"),
        ("Normal", "Ready"),
    ]
    owned = a_node(owner="machine-uid", labels={"karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"})
    later = NOON + timedelta(hours=1)
    assert planned(a_pool("Succeeded"), owned, status=first.report[0].status, now=later) == Plan(seen(UNKNOWN).subject)


# Refused


def test_a_no_is_told_and_not_asked_again_before_its_time() -> None:
    until = NOON + timedelta(seconds=600)
    known = Known(absent_since=NOON, create_refused=Refused(QUOTA, until))
    todo = planned(known)
    assert (todo.cloud, todo.look_again) == ((), 600)
    (launched,) = [c for c in todo.report[0].status["conditions"] if c["type"] == "MachineLaunched"]
    assert (launched["status"], launched["reason"]) == ("False", "QuotaExceeded")
    assert launched["message"] == "all requested instance types were unavailable during launch"
    (ready,) = [c for c in todo.report[0].status["conditions"] if c["type"] == "Ready"]
    assert ready["message"] == QUOTA.message
    assert [(event.type, event.reason) for event in todo.events] == [("Warning", "QuotaExceeded")]

    again = planned(known, now=until)
    assert [type(step) for step in again.cloud] == [CreateInCloud]
    assert told(again)["Ready"] == ("False", "QuotaExceeded")


def test_what_no_pool_can_be_is_told_once_and_costs_nothing() -> None:
    todo = planned(UNKNOWN, sizes=["Standard_NC6s_v3", "Standard_NC12s_v3"])
    assert (todo.cloud, told(todo)["MachineLaunched"]) == ((), ("False", "InvalidMachine"))
    assert planned(UNKNOWN, sizes=["a", "b"], status=dict(todo.report[0].status)).events == ()


@pytest.mark.money
@pytest.mark.parametrize("state", ["Creating", "Succeeded", "Failed", "Deleting"])
def test_somebody_elses_pool_of_the_name_is_not_taken_for_ours_nor_is_its_node(state: str) -> None:
    foreign = a_pool(state, owner={**OWNER, "kaito.sh_machine-uid": "somebody"})
    todo = planned(foreign, a_node())
    assert todo.apply == ()
    assert [type(step) for step in todo.cloud] == [CreateInCloud]  # whose live look refuses it, and says why
    assert told(todo)["MachineLaunched"] == ("False", "Launching")


# Given up


def test_a_failed_pool_goes_before_the_next_try_and_says_why() -> None:
    problem = classified(400, {"code": "ZonalAllocationFailed", "message": "none left"})
    todo = planned(a_pool("Failed", problem=problem))
    assert todo.cloud == (DeleteInCloud(NAME, OWNER, etag="e1"),)
    assert told(todo)["MachineLaunched"] == ("False", "AllocationFailed")


def test_a_pool_that_is_created_for_too_long_is_given_up() -> None:
    in_time, late = planned(a_pool("Creating", asked=1199)), planned(a_pool("Creating", asked=1200))
    assert (in_time.cloud, in_time.look_again) == ((), 1)
    assert late.cloud == (DeleteInCloud(NAME, OWNER, etag="e1"),)
    assert told(late)["MachineLaunched"] == ("False", "LaunchTimeout")


def test_a_node_that_does_not_join_for_too_long_is_given_up_with_its_pool() -> None:
    in_time = planned(a_pool("Succeeded", asked=9999), status=status("MachineLaunched", since=899))
    late = planned(a_pool("Succeeded", asked=9999), status=status("MachineLaunched", since=900))
    assert (in_time.cloud, in_time.look_again) == ((), 1)
    assert late.cloud == (DeleteInCloud(NAME, OWNER, etag="e1"),)
    assert told(late)["MachineLaunched"] == ("False", "RegistrationTimeout")


def test_a_node_that_is_lost_gets_the_same_time_to_come_back() -> None:
    before = status("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready", since=99999)
    lost = planned(a_pool("Succeeded", asked=99999), status=before)
    assert (lost.cloud, told(lost)["MachineRegistered"]) == ((), ("False", "NodeNotFound"))
    assert lost.report[0].status["conditions"][2]["lastTransitionTime"] == "2026-01-02T12:00:00Z"


def test_what_a_deletion_is_refused_for_is_not_asked_again_before_its_time() -> None:
    busy = Refused(Refusal("OperationInProgress", "busy", 15.0), NOON + timedelta(seconds=15))
    todo = planned(replace(a_pool("Failed"), delete_refused=busy))
    assert (todo.cloud, todo.look_again) == ((), 15)


def test_while_a_given_up_pool_goes_the_machine_keeps_saying_why() -> None:
    before = status(reason="RegistrationTimeout")
    assert planned(a_pool("Deleting"), status=before) == Plan(seen(UNKNOWN).subject)


def test_a_pool_that_somebody_deletes_is_said_to_go() -> None:
    before = status("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")
    todo = planned(a_pool("Deleting"), a_node(), status=before)
    assert (todo.cloud, told(todo)["Ready"]) == ((), ("False", "PoolDeleted"))


def test_after_a_restart_a_machine_that_was_launched_stays_as_it_is_until_the_cloud_was_asked() -> None:
    before = status("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")
    assert planned(UNKNOWN, a_node(), status=before) == Plan(seen(UNKNOWN).subject)
    lost = planned(ABSENT, status=before)
    assert ([type(step) for step in lost.cloud], told(lost)["Ready"]) == ([CreateInCloud], ("False", "Launching"))


# Deletion

GONE_LONG = Known(absent_since=NOON - timedelta(seconds=30))
BUSY = Refused(Refusal("AuthorizationFailed", "no role any more", 300.0), NOON + timedelta(seconds=300))


def test_a_deleted_machine_without_our_finalizer_is_left_to_others() -> None:
    assert not planned(UNKNOWN, deleting=True, finalizer=False).writes


@pytest.mark.money
@pytest.mark.parametrize(
    "known", [UNKNOWN, a_pool("Creating"), a_pool("Succeeded"), a_pool("Failed"), a_pool("Updating")]
)
def test_the_pool_is_deleted_by_name_whatever_is_known_of_it(known: Known) -> None:
    todo = planned(known, deleting=True)
    assert (todo.cloud, todo.finalizer) == ((DeleteInCloud(NAME, OWNER),), Finalizer.KEEP)
    assert told(todo) == {"Ready": ("False", "Terminating")}


@pytest.mark.money
def test_the_finalizer_waits_for_the_second_404_and_for_the_node() -> None:
    soon = planned(Known(absent_since=NOON - timedelta(seconds=20)), deleting=True)
    assert (soon.finalizer, soon.look_again) == (Finalizer.KEEP, 10.1)

    node = a_node()
    left = planned(GONE_LONG, node, deleting=True)
    assert (left.finalizer, left.delete) == (Finalizer.KEEP, (Delete(Ref.of(node), "node-uid"),))

    done = planned(GONE_LONG, deleting=True)
    assert done == Plan(seen(UNKNOWN, deleting=True).subject, finalizer=Finalizer.DROP, gone_in_cloud=(NAME,))


@pytest.mark.money
def test_a_refused_deletion_is_told_and_keeps_the_finalizer() -> None:
    for known in (a_pool("Succeeded"), GONE_LONG, UNKNOWN):
        todo = planned(replace(known, delete_refused=BUSY), deleting=True)
        assert (todo.finalizer, todo.cloud, todo.look_again) == (Finalizer.KEEP, (), 300)
        assert todo.report[0].status["conditions"][-1]["message"] == "no role any more"


def test_a_refused_create_does_not_hold_up_the_deletion() -> None:
    todo = planned(Known(create_refused=Refused(QUOTA, NOON + timedelta(seconds=600))), deleting=True)
    assert todo.cloud == (DeleteInCloud(NAME, OWNER),)


def test_a_deletion_keeps_what_was_known_of_the_node() -> None:
    node = {"nodeName": "n", "providerID": "p", "capacity": {}, "allocatable": {}}
    before = {**node, **status("MachineLaunched", "MachineRegistered")}
    written = planned(a_pool("Deleting"), deleting=True, status=before).report[0].status
    assert {**written, "conditions": None} == {**node, "conditions": None}
    assert [(c["type"], c["status"]) for c in written["conditions"]] == [
        ("MachineInitialized", "False"),
        ("MachineLaunched", "True"),
        ("MachineRegistered", "True"),
        ("Ready", "False"),
    ]


# The node's finalizer

OWNED = {"karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"}
NODE = Ref("v1", "Node", f"aks-{NAME}-12345678-vmss000000")
READY = status(*STEPS)


def our_node(**changed: Any) -> dict[str, Any]:
    return a_node(**{"owner": "machine-uid", "labels": OWNED, **changed})


def test_a_node_of_before_gets_the_finalizer_and_one_that_is_being_deleted_does_not() -> None:
    (claim,) = planned(a_pool("Succeeded"), our_node(held=False)).apply
    assert claim.manifest["metadata"]["finalizers"] == ["karpenter.sh/termination"]
    going = planned(a_pool("Succeeded"), a_node(deleting=True))
    assert ["finalizers" in step.manifest["metadata"] for step in going.apply] == [False]


@pytest.mark.money
@pytest.mark.parametrize("state", ["Succeeded", "Failed", "Canceled", "Creating"])
def test_who_deletes_a_node_deletes_its_machine_if_the_cloud_still_has_it(state: str) -> None:
    todo = planned(a_pool(state), our_node(deleting=True), status=READY)
    told = f"node {NODE.name} is being deleted, and its Machine with it"
    assert todo == Plan(
        seen(UNKNOWN).subject,
        there_in_cloud=(NAME,),
        delete=(Delete(REF, "machine-uid", gives_up=True),),
        events=(Event(REF, "machine-uid", "Normal", "NodeDeleted", told),),
    )


@pytest.mark.money
@pytest.mark.parametrize("state", ["Upgrading", "UpgradingNodeImageVersion", "Updating", "Scaling"])
def test_while_azure_is_at_work_on_the_pool_a_node_that_goes_is_its_own_affair(state: str) -> None:
    todo = planned(a_pool(state), our_node(deleting=True), status=READY)
    assert (todo.delete, todo.release, todo.cloud) == ((), (), ())
    assert told(todo)["Ready"] == ("False", "NodeDeleted")


def test_when_the_cloud_cannot_be_asked_the_machine_of_a_deleted_node_waits() -> None:
    todo = planned(replace(a_pool("Succeeded"), delete_refused=BUSY), our_node(deleting=True), status=READY)
    assert (todo.delete, todo.look_again) == ((), 300)
    assert todo.report[0].status["conditions"][-1]["message"] == "no role any more"


@pytest.mark.money
def test_somebody_elses_node_that_is_deleted_takes_no_machine_with_it() -> None:
    for node in (a_node(deleting=True), a_node(deleting=True, held=True), a_node(deleting=True, owner="another")):
        assert planned(a_pool("Succeeded"), node, status=READY).delete == ()


@pytest.mark.money
def test_a_node_that_was_deleted_is_emptied_with_its_machine() -> None:
    (cordon,) = planned(a_pool("Succeeded"), our_node(deleting=True), deleting=True).apply
    assert cordon.manifest["spec"] == {"unschedulable": True}
    assert cordon.manifest["metadata"]["finalizers"] == ["karpenter.sh/termination"]


@pytest.mark.money
def test_the_finalizers_go_when_the_pool_is_gone_the_nodes_first() -> None:
    release = (Release(NODE, "node-uid"),)
    subject = seen(UNKNOWN, deleting=True).subject

    soon = planned(Known(absent_since=NOON - timedelta(seconds=20)), our_node(deleting=True), deleting=True)
    assert soon == Plan(subject, look_again=10.1)

    done = planned(GONE_LONG, our_node(deleting=True), deleting=True)
    assert done == Plan(subject, release=release, finalizer=Finalizer.DROP, gone_in_cloud=(NAME,))

    others = our_node(deleting=True)
    others["metadata"]["finalizers"].append("example.com/theirs")
    assert planned(GONE_LONG, others, deleting=True) == Plan(subject, release=release, gone_in_cloud=(NAME,))
    others["metadata"]["finalizers"] = ["example.com/theirs"]
    assert not planned(GONE_LONG, others, deleting=True).writes


@pytest.mark.money
def test_the_node_of_a_pool_that_is_gone_goes_before_the_next_is_asked_for() -> None:
    """The next machine has the same name, and would live in a Node that is on its way out."""
    subject = seen(UNKNOWN).subject
    left = planned(ABSENT, our_node(ready=False), status=READY)
    assert left == Plan(subject, delete=(Delete(NODE, "node-uid"),))

    held = planned(ABSENT, our_node(ready=False, deleting=True), status=READY)
    assert held == Plan(subject, release=(Release(NODE, "node-uid"),), gone_in_cloud=(NAME,))

    shining = planned(ABSENT, our_node(), status=READY)  # its kubelet was there a moment ago
    assert (shining.cloud, shining.look_again, told(shining)["Ready"]) == ((), 10, ("False", "PoolDeleted"))
    assert [type(step) for step in planned(ABSENT, status=READY).cloud] == [CreateInCloud]


@pytest.mark.money
def test_a_node_in_whose_place_azure_put_another_is_let_go() -> None:
    """A pool of one is upgraded with a second machine, which stays when the first is taken away."""
    old, new = our_node(deleting=True, ready=False), a_node(number=1)
    new["metadata"]["uid"] = "the other"
    todo = planned(a_pool("Succeeded"), old, new, status=READY)
    assert (todo.release, todo.delete) == ((Release(NODE, "node-uid"),), ())
    assert [(type(step), step.uid) for step in todo.apply] == [(Apply, "the other")]
    assert todo.report[0].status["nodeName"] == new["metadata"]["name"]

    still_there = planned(a_pool("Succeeded"), our_node(deleting=True), new, status=READY)
    assert (still_there.release, still_there.there_in_cloud) == ((), (NAME,))


@pytest.mark.money
def test_with_a_node_of_ours_a_pool_that_was_never_seen_is_looked_for_before_it_is_asked_for() -> None:
    known = Known(create_refused=Refused(BUSY.refusal, NOON))  # and the look could not be had
    for todo in (planned(UNKNOWN, our_node()), planned(known, our_node(deleting=True))):
        assert todo == Plan(seen(UNKNOWN).subject, cloud=(LookInCloud(NAME),))
    foreign = planned(a_pool("Succeeded", owner={**OWNER, "kaito.sh_machine-uid": "somebody"}), our_node())
    assert (foreign.cloud, foreign.release, told(foreign)["Ready"]) == ((), (), ("False", "NameTaken"))


def nobodys_node(**others: Any) -> dict[str, Any]:
    """Ours by the label; the owner reference is gone."""
    return a_node(labels=OWNED, held=True, **others)


@pytest.mark.money
def test_a_node_of_ours_whose_owner_somebody_took_off_is_ours_by_its_label() -> None:
    """What the live look before a create finds, the plan knows too: else that would be asked for again and again."""
    subject = seen(UNKNOWN).subject
    assert planned(UNKNOWN, nobodys_node()) == Plan(subject, cloud=(LookInCloud(NAME),))
    dark = planned(ABSENT, nobodys_node(ready=False), status=READY)
    assert dark == Plan(subject, delete=(Delete(NODE, "node-uid"),))
    held = planned(ABSENT, nobodys_node(ready=False, deleting=True), status=READY)
    assert held == Plan(subject, release=(Release(NODE, "node-uid"),), gone_in_cloud=(NAME,))
    shining = planned(ABSENT, nobodys_node(), status=READY)
    assert (shining.cloud, told(shining)["Ready"]) == ((), ("False", "PoolDeleted"))
    (claim,) = planned(a_pool("Succeeded"), nobodys_node(), status=READY).apply
    assert claim.manifest["metadata"]["ownerReferences"][0]["uid"] == "machine-uid"


@pytest.mark.money
def test_a_node_that_only_joined_under_the_name_holds_up_nothing() -> None:
    """Without label and owner it was never ours: neither the plan nor the live look minds it."""
    todo = planned(ABSENT, a_node(ready=False), status=READY)
    assert ([type(step) for step in todo.cloud], todo.delete) == ([CreateInCloud], ())


@pytest.mark.money
def test_a_node_without_an_owner_is_emptied_only_where_its_pool_is_ours() -> None:
    foreign = a_pool("Succeeded", owner={**OWNER, "kaito.sh_machine-uid": "somebody"})
    assert planned(UNKNOWN, nobodys_node(), deleting=True).cloud == (LookInCloud(NAME),)
    (cordon,) = planned(a_pool("Succeeded"), nobodys_node(), deleting=True).apply
    assert cordon.manifest["spec"] == {"unschedulable": True}
    left = planned(foreign, nobodys_node(), deleting=True)
    assert (left.apply, left.evict, [type(step) for step in left.cloud]) == ((), (), [DeleteInCloud])  # which refuses


@pytest.mark.money
def test_before_a_pool_is_asked_for_no_node_of_ours_may_bear_its_name() -> None:
    claimed = {"kubernetes.azure.com/agentpool": NAME, "karpenter.sh/registered": "true"}
    assert planned(ABSENT).holding == Holding(Selection("v1", "Node", claimed), frozenset())


def evicted(**pool: Any) -> Known:
    known = a_pool("Succeeded", asked=3600)
    assert known.pool is not None
    return replace(known, pool=replace(known.pool, **{"spot": True, "count": 0, **pool}))


def test_a_spot_machine_that_azure_took_back_is_replaced_at_once() -> None:
    todo = planned(evicted(), status=status(*STEPS))
    assert todo.cloud == (DeleteInCloud(NAME, OWNER, etag="e1"),)
    assert told(todo)["MachineLaunched"] == ("False", "SpotEvicted")


@pytest.mark.parametrize("pool", [{"count": 1}, {"count": None}, {"spot": False}, {"state": "Updating"}])
def test_a_node_that_is_missing_is_no_eviction_while_azure_does_not_say_so(pool: dict[str, Any]) -> None:
    todo = planned(evicted(**pool), status=status(*STEPS))
    assert (todo.cloud, "SpotEvicted" in str(todo.report)) == ((), False)


def test_a_spot_machine_whose_node_is_still_there_is_left_alone() -> None:
    assert planned(evicted(), a_node(), status=status(*STEPS)).cloud == ()


def test_a_spot_machine_whose_node_only_the_finalizer_keeps_is_replaced() -> None:
    todo = planned(evicted(), our_node(deleting=True, ready=False), status=status(*STEPS))
    assert (todo.cloud, todo.delete) == ((DeleteInCloud(NAME, OWNER, etag="e1"),), ())
    assert told(todo)["MachineLaunched"] == ("False", "SpotEvicted")


@pytest.mark.parametrize(
    ("told", "drain", "seconds"),
    [("90s", None, 90), ("1h30m", 10.0, 5400), ("2m5s", None, 125), ("", 10.0, 10), ("", None, None)],
)
def test_the_grace_of_a_claim_comes_before_that_of_the_settings(
    told: str, drain: float | None, seconds: float | None
) -> None:
    found = seen(UNKNOWN)
    machine = {**found.machine, "spec": {**found.machine["spec"], "terminationGracePeriod": told}}
    assert grace_seconds(replace(found, machine=machine), limits=replace(LIMITS, drain=drain)) == seconds
