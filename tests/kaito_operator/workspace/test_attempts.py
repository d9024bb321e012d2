"""A machine that is lost is replaced under the next attempt's name, not at once, and not at all where that is vain."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from kaito_operator.plan import Plan
from kaito_operator.workspace.machines import machine_name
from tests.support.builders import (
    JUST_NOW,
    NOON,
    UID,
    a_machine,
    a_node,
    a_ready_machine,
    a_workspace,
    condition,
    machine_conditions,
)
from tests.support.planning import applied, conditions, deleted, planned

pytestmark = pytest.mark.money

FIRST, SECOND, THIRD = (machine_name(UID, slot=0, attempt=attempt) for attempt in (1, 2, 3))
LONG_AGO = "2026-01-02T11:44:00Z"
HEALTHY = tuple(a_node(f"other-{index}", labels={}) for index in range(4))
NO_QUOTA = "no cores (Current Limit: 0, Current Usage: 0)"


def account(todo: Plan) -> list[Mapping[str, Any]]:
    """status.machines as a plan reports it."""
    return list(todo.report[0].status.get("machines", []))


def asked(attempt: int = 1, slot: int = 0, **others: Any) -> dict[str, Any]:
    """An entry of status.machines whose Machine was asked for."""
    return {"slot": slot, "attempt": attempt, "name": machine_name(UID, slot=slot, attempt=attempt), **others}


def after(*machines: Mapping[str, Any], said: Mapping[str, Any] | None = None, generation: int = 1) -> dict[str, Any]:
    """A Workspace whose status has this account, and says this of its Machines."""
    told = [dict(said)] if said else []
    return a_workspace(status={"observedGeneration": generation, "machines": list(machines), "conditions": told})


def names(todo: Plan) -> list[str]:
    return [machine["metadata"]["name"] for machine in applied(todo, "Machine")]


def later(seconds: float) -> Any:
    return NOON + timedelta(seconds=seconds)


def told(reason: str, message: str) -> dict[str, Any]:
    return condition("MachineReady", "False", reason, message)


def test_what_is_asked_for_is_written_down() -> None:
    assert account(planned(a_workspace())) == [asked()]


def test_a_lost_machine_is_replaced_after_half_a_minute_under_the_next_name() -> None:
    lost = planned(after(asked()))
    assert names(lost) == []
    assert account(lost) == [
        {
            "slot": 0,
            "attempt": 2,
            "losses": 1,
            "reason": "MachineBackOff",
            "message": f"{FIRST} went before it was ready",
            "notBefore": "2026-01-02T12:00:30Z",
        }
    ]
    waiting = a_workspace(status=lost.report[0].status)
    assert names(planned(waiting, now=later(29))) == []
    bought = planned(waiting, now=later(30))
    assert names(bought) == [SECOND]
    assert applied(bought, "Machine")[0]["metadata"]["annotations"]["kaito.sh/attempt"] == "2"
    assert account(bought)[0]["name"] == SECOND


def test_the_wait_doubles_with_each_loss_up_to_half_an_hour() -> None:
    waits, status, now = [], planned(a_workspace()).report[0].status, NOON
    for _ in range(9):
        lost = planned(a_workspace(status=status), now=now)
        until = account(lost)[0]["notBefore"]
        waits.append((lost_until := _moment(until)) - now)
        now = lost_until
        status = planned(a_workspace(status=lost.report[0].status), now=now).report[0].status
    assert [wait.total_seconds() for wait in waits] == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]


def _moment(text: str) -> Any:
    return NOON.fromisoformat(text.replace("Z", "+00:00"))


def test_a_loss_after_two_good_hours_is_the_first_again() -> None:
    entry = asked(3, losses=2, reason="MachineBackOff", message="", notBefore="2026-01-02T09:59:00Z")
    assert account(planned(after(entry)))[0]["losses"] == 1


def test_one_that_is_being_deleted_is_paid_for_and_waited_for() -> None:
    leaving = planned(after(asked()), a_machine(FIRST, deleting=True))
    assert names(leaving) == []
    assert account(leaving)[0]["attempt"] == 2
    assert conditions(leaving)["MachineReady"][:2] == ("False", "MachineTerminating")
    status = leaving.report[0].status
    still = planned(a_workspace(status=status), a_machine(FIRST, deleting=True), now=later(3600))
    assert (names(still), still.report) == ([], ())
    assert names(planned(a_workspace(status=status), now=later(3600))) == [SECOND]


def test_a_machine_that_the_status_does_not_know_yet_is_not_asked_for_again() -> None:
    """The process was killed between the purchase and the status."""
    waiting = {"slot": 0, "attempt": 2, "losses": 1, "reason": "MachineBackOff", "message": "", "notBefore": LONG_AGO}
    todo = planned(after(waiting), a_machine(SECOND))
    assert names(todo) == []
    assert account(todo)[0]["name"] == SECOND


def test_a_status_that_was_lost_does_not_make_a_second_machine() -> None:
    todo = planned(a_workspace(), a_machine(THIRD))
    assert names(todo) == []
    assert account(todo) == [asked(3)]


def test_only_the_lost_slot_gets_another() -> None:
    other = machine_name(UID, slot=1, attempt=1)
    waiting = {"slot": 0, "attempt": 2, "losses": 1, "reason": "MachineBackOff", "message": "", "notBefore": JUST_NOW}
    workspace = a_workspace(count=2, status={"observedGeneration": 1, "machines": [waiting, asked(slot=1)]})
    todo = planned(workspace, a_machine(other))
    assert names(todo) == [SECOND]
    assert todo.holding is not None
    assert todo.holding.uids == {f"uid-of-{other}"}


HOPELESS = {
    "a size that is not offered": ("SkuNotAvailable", "Standard_X is not offered"),
    "no quota at all": ("QuotaExceeded", NO_QUOTA),
    "no quota at all, by Karpenter": ("LaunchFailed", NO_QUOTA),
    "a size that Karpenter's provider does not have": ("LaunchFailed", "instance type not found (instance-type=x)"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_what_time_does_not_mend_is_not_bought_for_a_day(case: str) -> None:
    reason, words = HOPELESS[case]
    lost = planned(after(asked(), said=told(reason, f"Machine {FIRST} (Standard_D2s_v5): {words}")))
    assert account(lost)[0]["notBefore"] == "2026-01-03T12:00:00Z"
    status, stated, message = conditions(lost)["MachineReady"]
    assert (status, stated) == ("False", reason)
    assert words in message
    assert message.endswith("is asked for at 2026-01-03T12:00:00Z, or when the Workspace is changed")
    waiting = a_workspace(status=lost.report[0].status)
    assert names(planned(waiting, now=later(24 * 3600 - 1))) == []
    assert names(planned(waiting, now=later(24 * 3600))) == [SECOND]


@pytest.mark.parametrize(
    ("reason", "words"), [("QuotaExceeded", "Current Limit: 24"), ("AllocationFailed", "none free")]
)
def test_what_time_may_mend_is_bought_after_the_usual_wait(reason: str, words: str) -> None:
    lost = planned(after(asked(), said=told(reason, f"Machine {FIRST}: {words}")))
    assert account(lost)[0]["notBefore"] == "2026-01-02T12:00:30Z"
    assert conditions(lost)["MachineReady"][1] == reason


def test_a_changed_workspace_is_tried_at_once() -> None:
    waiting = {
        "slot": 0,
        "attempt": 2,
        "losses": 5,
        "reason": "SkuNotAvailable",
        "message": "no",
        "notBefore": "2026-01-03T12:00:00Z",
    }
    assert names(planned(after(waiting))) == []
    todo = planned(after(waiting, generation=0))
    assert names(todo) == [SECOND]
    assert account(todo) == [asked(2)]


def test_a_refusal_of_a_machine_that_lives_buys_no_other() -> None:
    refused = a_machine(FIRST, conditions=machine_conditions(0, "QuotaExceeded", NO_QUOTA))
    todo = planned(after(asked()), refused, now=later(7 * 24 * 3600))
    assert (todo.apply, todo.delete) == ((), ())


def dead(**others: Any) -> dict[str, Any]:
    return a_node("n", held_by="chat", pool=FIRST, ready=False, ready_since=LONG_AGO, **others)


def test_a_machine_whose_node_is_dead_for_a_quarter_of_an_hour_is_given_up() -> None:
    todo = planned(after(asked()), a_ready_machine(FIRST, node="n"), dead(), *HEALTHY)
    assert deleted(todo) == [f"Machine {FIRST}"]
    assert all(step.gives_up for step in todo.delete)
    words = f"Machine {FIRST} is given up: Node n has not been Ready for 15 min. Another is asked for when it is gone"
    assert conditions(todo)["MachineReady"] == ("False", "NodeLost", words)
    gone = planned(a_workspace(status=todo.report[0].status), *HEALTHY)
    assert (account(gone)[0]["attempt"], account(gone)[0]["reason"]) == (2, "NodeLost")
    assert names(planned(a_workspace(status=gone.report[0].status), *HEALTHY, now=later(30))) == [SECOND]


def test_until_then_it_is_kept_and_looked_at_when_the_time_is_over() -> None:
    down = a_node("n", held_by="chat", pool=FIRST, ready=False, ready_since="2026-01-02T11:46:00Z")
    todo = planned(after(asked()), a_ready_machine(FIRST, node="n"), down, *HEALTHY)
    assert (todo.delete, todo.look_again) == ((), 60.0)
    assert conditions(todo)["ResourceReady"][:2] == ("False", "NodeNotReady")


def test_while_many_nodes_are_down_none_is_given_up() -> None:
    others = [a_node(f"down-{index}", ready=False) for index in range(2)]
    todo = planned(after(asked()), a_ready_machine(FIRST, node="n"), dead(), *others, HEALTHY[0])
    assert (todo.delete, todo.look_again) == ((), 60.0)
    assert conditions(todo)["ResourceReady"][:2] == ("False", "NodeNotReady")


def test_a_machine_that_its_provisioner_mends_is_not_given_up() -> None:
    mended = a_machine(FIRST, node="n", conditions=machine_conditions(2, "NodeRepair", "it is replaced"))
    assert planned(after(asked()), mended, dead(), *HEALTHY).delete == ()


@pytest.mark.parametrize(("since", "given_up"), [(LONG_AGO, True), (JUST_NOW, False)])
def test_a_machine_whose_node_is_gone_for_long_is_given_up(since: str, given_up: bool) -> None:
    told = condition("ResourceReady", "Unknown", "workspaceResourceStatusNotReady", since=since)
    workspace = a_workspace(status={"observedGeneration": 1, "machines": [asked()], "conditions": [told]})
    todo = planned(workspace, a_ready_machine(FIRST, node="n"), *(a_node(f"x{i}", labels={}) for i in range(3)))
    assert bool(todo.delete) == given_up


def test_a_dead_node_of_ones_own_gives_way_to_a_bought_one() -> None:
    own = a_node("n", held_by="chat", labelled_by_us=True, ready=False, ready_since=LONG_AGO)
    todo = planned(a_workspace(), own, *(a_node(f"x{i}", labels={}) for i in range(3)))
    assert names(todo) == [FIRST]
    assert [node["metadata"] for node in applied(todo, "Node")] == [{"name": "n", "labels": {}}]


def test_a_dead_node_of_ones_own_gives_way_to_a_free_one_and_to_nothing_where_none_is_bought() -> None:
    own = a_node("n", held_by="chat", labelled_by_us=True, ready=False, ready_since=LONG_AGO)
    others = [a_node(f"x{i}", labels={}) for i in range(3)]
    alone = planned(a_workspace(instance_type=""), own, *others)
    assert alone.apply == ()
    assert conditions(alone)["ResourceReady"][:2] == ("False", "NodeNotReady")
    moved = planned(a_workspace(instance_type=""), own, *others, a_node("free"))
    assert moved.report[0].status["workerNodes"] == ["free"]


@pytest.mark.parametrize(
    "rubbish",
    [
        "no list",
        ["no object"],
        [{}],
        [{"slot": "x", "attempt": 1}],
        [{"slot": 0, "attempt": None}],
        [{"slot": 0, "attempt": 1, "notBefore": "soon"}],
    ],
    ids=repr,
)
def test_an_account_that_cannot_be_read_is_as_if_it_were_not_there(rubbish: object) -> None:
    todo = planned(a_workspace(status={"observedGeneration": 1, "machines": rubbish}))
    assert names(todo) == [FIRST]
    assert account(todo) == [asked()]


def test_a_workspace_that_is_not_worked_on_keeps_its_account() -> None:
    waiting = {"slot": 0, "attempt": 2, "losses": 1, "reason": "NodeLost", "message": "no", "notBefore": JUST_NOW}
    mistaken = a_workspace(preset="no-such", status={"observedGeneration": 1, "machines": [waiting]})
    assert account(planned(mistaken)) == [waiting]
