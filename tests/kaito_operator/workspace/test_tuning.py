"""Tuning: which Job, when, how far it is, why it does not go on, and what is served in the end."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kaito_operator.plan import Plan
from kaito_operator.workspace.job_diagnosis import Result
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.plan import plan
from kaito_operator.workspace.seen_pods import Progress
from presets.tuning_steps import FINAL, ExitCode
from tests.presets.test_training_config import MISTAKES
from tests.support.builders import (
    NOON,
    UID,
    a_job,
    a_node,
    a_ready_machine,
    a_tuning_pod,
    a_workspace,
    condition,
    seen_of,
    stored,
)
from tests.support.planning import CATALOG, INSTALLATION, applied, conditions, deleted, planned

FIRST = machine_name(UID, slot=0, attempt=1)
TUNING = {
    "preset": {"name": "smollm2-135m-instruct"},
    "method": "qlora",
    "input": {"urls": ["https://example.com/rows.jsonl"]},
    "output": {"image": "registry.example.com/team/style:1", "imagePushSecret": "push"},
}
DIGEST = "sha256:" + "ab" * 32


def with_node(workspace: Mapping[str, Any], *others: Mapping[str, Any]) -> Plan:
    """The plan once the node is there."""
    machine = a_ready_machine(FIRST, node="n")
    return planned(workspace, machine, a_node("n", held_by="chat", pool=FIRST), *others)


def a_tuning(**changes: Any) -> dict[str, Any]:
    return a_workspace(tuning={**TUNING, **changes.pop("tuning", {})}, **changes)


def the_job(workspace: Mapping[str, Any] | None = None) -> str:
    name: str = applied(with_node(workspace or a_tuning()), "Job")[0]["metadata"]["name"]
    return name


def test_nothing_is_trained_before_the_node_is_there() -> None:
    todo = planned(a_tuning())
    assert [step.manifest["kind"] for step in todo.apply] == ["Machine"]
    assert conditions(todo)["JobStarted"] == ("Unknown", "Waiting", "waits for ResourceReady")
    assert conditions(todo)["InferenceReady"] == ("Unknown", "Waiting", "waits for TuningSucceeded")


def test_on_its_node_the_configuration_and_the_job_are_made_and_no_server() -> None:
    todo = with_node(a_tuning())
    assert [step.manifest["kind"] for step in todo.apply] == ["ConfigMap", "PersistentVolumeClaim", "Job"]
    config, _, job = (step.manifest for step in todo.apply)
    assert config["metadata"]["name"] == job["metadata"]["name"]
    steps = job["spec"]["template"]["spec"]
    assert [c["name"] for c in (*steps["initContainers"], *steps["containers"])] == ["download", "trainer", "publish"]


def test_the_volume_of_an_earlier_workspace_of_the_name_is_waited_for_while_it_goes() -> None:
    """As when one is deleted and made again at once: a claim stays until no pod uses it."""
    theirs = applied(with_node(a_tuning()), "PersistentVolumeClaim")[0]
    owner = {**theirs["metadata"]["ownerReferences"][0], "uid": "another"}
    metadata = {**theirs["metadata"], "ownerReferences": [owner], "deletionTimestamp": "2026-01-02T11:59:50Z"}
    todo = with_node(a_tuning(), stored({**theirs, "metadata": metadata}))
    assert todo.apply == ()
    told = "PersistentVolumeClaim chat-tuning of the same name is being deleted, and has to be gone first"
    assert conditions(todo)["JobStarted"] == ("Unknown", "WorkspaceTuningJobStatusPending", told)


def test_after_an_edit_the_new_job_waits_for_the_pod_that_has_its_node_to_end() -> None:
    """The trainer writes a checkpoint first; meanwhile the scheduler says that the new pod fits nowhere."""
    name = the_job()
    old = a_tuning_pod("chat-of-before", running="trainer")
    old["metadata"]["deletionTimestamp"] = "2026-01-02T11:59:50Z"
    new = a_tuning_pod(name)
    unplaced = condition("PodScheduled", "False", "Unschedulable", "0/1 nodes", since="2026-01-02T11:59:00Z")
    new["status"] = {"phase": "Pending", "conditions": [unplaced]}
    told = f"Job {name}: Pod chat-of-before-abcde of what ran before is still ending"
    found = conditions(with_node(a_tuning(), a_job(name), old, new))
    assert found["JobStarted"] == ("Unknown", "WorkspaceTuningJobStatusPending", told)
    alone = conditions(with_node(a_tuning(), a_job(name), new))
    assert alone["JobStarted"][:2] == ("False", "Unschedulable")


def test_only_the_step_that_pushes_sees_the_push_secret() -> None:
    pod = applied(with_node(a_tuning()), "Job")[0]["spec"]["template"]["spec"]
    mounting = [
        c["name"]
        for c in (*pod["initContainers"], *pod["containers"])
        if any(mount["name"] == "push" for mount in c["volumeMounts"])
    ]
    assert mounting == ["publish"]


def test_final_exit_codes_end_the_job_and_a_preemption_does_not_count() -> None:
    rules = applied(with_node(a_tuning()), "Job")[0]["spec"]["podFailurePolicy"]["rules"]
    by_action = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert by_action == {"FailJob": sorted(FINAL), "Ignore": [ExitCode.PREEMPTED]}


def test_a_job_that_is_there_is_left_as_it_is() -> None:
    name = the_job()
    todo = with_node(a_tuning(), a_job(name), a_tuning_pod(name, running="trainer"))
    assert applied(todo, "Job") == []
    assert conditions(todo)["JobStarted"][:2] == ("True", "WorkspaceTuningJobStatusStarted")
    assert conditions(todo)["TuningSucceeded"][:2] == ("Unknown", "WorkspaceTuningInProgress")
    assert conditions(todo)["WorkspaceReady"][:2] == ("False", "workspacePending")


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"urls": ["https://example.com/other.jsonl"]}},
        {"output": {"image": "registry.example.com/team/style:2", "imagePushSecret": "push"}},
        {"method": "lora"},
    ],
    ids=["input", "output", "method"],
)
def test_other_data_is_another_job_and_the_old_one_goes(change: dict[str, Any]) -> None:
    old = the_job()
    todo = with_node(a_tuning(tuning=change), a_job(old))
    (new,) = applied(todo, "Job")
    assert new["metadata"]["name"] != old
    assert deleted(todo) == [f"Job team/{old}"]


def test_serving_or_not_is_no_other_job() -> None:
    assert the_job(a_tuning(tuning={"serve": False})) == the_job()


def test_while_it_trains_again_the_old_server_makes_room() -> None:
    deployment = {**applied(served(), "Deployment")[0]}
    deployment["metadata"] = {**deployment["metadata"], "uid": "d", "resourceVersion": "1"}
    other = a_tuning(tuning={"input": {"urls": ["https://example.com/other.jsonl"]}})
    assert "Deployment team/chat" in deleted(with_node(other, deployment))


def served(**changes: Any) -> Plan:
    """The plan once the Job has published."""
    workspace = a_tuning(**changes)
    name = the_job(workspace)
    words = json.dumps({"image": TUNING["output"], "digest": DIGEST})
    return with_node(workspace, a_job(name, complete=True), a_tuning_pod(name, ended=("publish", 0, words)))


def test_once_it_is_tuned_base_and_adapter_are_served() -> None:
    todo = served()
    assert [step.manifest["kind"] for step in todo.apply] == ["Service", "Deployment"]
    pod = applied(todo, "Deployment")[0]["spec"]["template"]["spec"]
    (fetch,) = pod["initContainers"]
    assert f"--image=registry.example.com/team/style@{DIGEST}" in fetch["args"]
    assert "--to=/mnt/adapter/chat" in fetch["args"]
    assert "--auth=/mnt/pull/push/.dockerconfigjson" in fetch["args"]
    told = conditions(todo)["TuningSucceeded"]
    assert told == ("True", "WorkspaceTuningSuccess", f"the adapter is at registry.example.com/team/style@{DIGEST}")
    assert todo.report[0].status["tuning"]["digest"] == DIGEST


TRAINED = '{"trained": true, "steps": 40, "loss": 0.51234, "eval_loss": null, "epoch": 2.0, "tokens_per_second": 812.4}'
AT_THE_END = {"step": 40, "steps": 40, "loss": "0.5123", "epoch": "2.00", "tokensPerSecond": 812}


@pytest.mark.parametrize("before", [{}, {"step": 0, "steps": 0, "loss": "", "etaSeconds": 70, "peakMemory": "900Mi"}])
def test_what_the_trainer_said_last_is_told_however_quickly_it_was_over(before: dict[str, Any]) -> None:
    """Nobody has asked it since its last step, or ever; and what it was asked before may be of its first."""
    name = the_job()
    status = {"tuning": {"job": name, **before}} if before else None
    pod = a_tuning_pod(name, running="publish", ended=("trainer", 0, TRAINED))
    kept = {"peakMemory": "900Mi"} if before else {}
    told = {"job": name, **kept, **AT_THE_END}
    publishing = with_node(a_tuning(status=status), a_job(name), pod)
    assert publishing.report[0].status["tuning"] == told

    done = with_node(a_tuning(status=status), a_job(name, complete=True), pod)
    assert done.report[0].status["tuning"] == {**told, "image": "registry.example.com/team/style:1"}
    gone = with_node(a_tuning(status={"tuning": {**told, "digest": DIGEST}}))  # with Job and pod tidied away
    assert gone.report[0].status["tuning"] == {**told, "image": "registry.example.com/team/style:1", "digest": DIGEST}


def test_of_two_pods_the_one_that_reached_the_end_tells_it() -> None:
    name = the_job()
    first = a_tuning_pod(name, ended=("trainer", ExitCode.PREEMPTED, "Preempted: stopped at step 3"), phase="Failed")
    second = a_tuning_pod(name, running="publish", ended=("trainer", 0, TRAINED))
    second["metadata"] = {**second["metadata"], "name": f"{name}-fghij", "uid": "second"}
    todo = with_node(a_tuning(), a_job(name), first, second)
    assert todo.report[0].status["tuning"]["steps"] == 40


@pytest.mark.badinput
@pytest.mark.parametrize("words", ["", "no JSON", "[]", '{"trained": false}', '{"steps": -1}', '{"steps": "x"}'])
def test_last_words_that_make_no_sense_change_nothing(words: str) -> None:
    name = the_job()
    before = {"job": name, "step": 3, "steps": 8, "loss": "1.2"}
    pod = a_tuning_pod(name, running="publish", ended=("trainer", 0, words))
    todo = with_node(a_tuning(status={"tuning": before}), a_job(name), pod)
    assert todo.report[0].status["tuning"] == before


def test_a_result_in_the_status_is_not_trained_for_again_when_its_job_is_gone() -> None:
    status = {"tuning": {"job": the_job(), "digest": DIGEST}}
    todo = with_node(a_tuning(status=status))
    assert applied(todo, "Job") == []
    assert len(applied(todo, "Deployment")) == 1


def test_a_result_of_another_job_is_no_result() -> None:
    todo = with_node(a_tuning(status={"tuning": {"job": "chat-00000000", "digest": DIGEST}}))
    assert len(applied(todo, "Job")) == 1


def test_unserved_it_ends_with_the_push_and_gives_its_machine_back() -> None:
    todo = served(tuning={"serve": False})
    assert deleted(todo) == [f"Machine {FIRST}"]
    assert [step.manifest["kind"] for step in todo.apply] == []
    told = conditions(todo)
    assert "InferenceReady" not in told
    assert told["WorkspaceReady"] == ("True", "workspaceReady", "the model is tuned")


def test_over_it_asks_for_no_machine_again() -> None:
    status = {"tuning": {"job": the_job(), "digest": DIGEST}}
    todo = planned(a_tuning(tuning={"serve": False}, status=status))
    assert todo.apply == ()
    assert conditions(todo)["WorkspaceReady"][0] == "True"


FAILURES = {
    "rows": ("trainer", ExitCode.DATA_INVALID, "DataInvalid: rows.jsonl row 3: no messages", "DataInvalid"),
    "memory": ("trainer", ExitCode.OUT_OF_MEMORY, "OutOfMemory: lower per_device_train_batch_size", "OutOfMemory"),
    "address": (
        "download",
        ExitCode.DOWNLOAD_REFUSED,
        "DownloadRefused: 169.254.169.254 is private",
        "DownloadRefused",
    ),
    "network": ("download", ExitCode.DOWNLOAD_FAILED, "DownloadFailed: 503 five times", "DownloadFailed"),
    "config": ("trainer", ExitCode.CONFIG_INVALID, "ConfigInvalid: learningrate", "ConfigInvalid"),
    "denied": ("publish", ExitCode.PUSH_DENIED, "PushDenied: 401", "PushDenied"),
    "push": ("publish", ExitCode.PUSH_FAILED, "PushFailed: 503", "PushFailed"),
    "disk": ("trainer", ExitCode.DISK_FULL, "DiskFull: the disk is full (optimizer.pt)", "DiskFull"),
    "crash": ("trainer", ExitCode.CRASHED, "Traceback\nValueError: no", "Crashed"),
    "signal": ("trainer", 139, "", "WorkspaceTuningJobStatusFailed"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_job_given_up_names_the_step_and_its_last_words(case: str) -> None:
    step, code, words, reason = FAILURES[case]
    name = the_job()
    pod = a_tuning_pod(name, ended=(step, int(code), words), phase="Failed")
    todo = with_node(a_tuning(), a_job(name, failed="PodFailurePolicy"), pod)
    status, told, message = conditions(todo)["JobStarted"]
    assert (status, told) == ("False", reason)
    assert f"Pod {name}-abcde, {step}" in message
    assert conditions(todo)["WorkspaceReady"][1] == reason


def test_before_the_first_step_it_is_said_what_is_done_and_no_number() -> None:
    assert str(Progress(step=0, steps=0, loss="", eta_seconds=None)) == "model and data are read"
    assert str(Progress(step=3, steps=9, loss="1.2", eta_seconds=120)) == "step 3 of 9, loss 1.2, about 2 min left"


FOR_GOOD = {case: failure for case, failure in FAILURES.items() if failure[1] in FINAL}


@pytest.mark.parametrize("case", FOR_GOOD)
def test_what_is_not_tried_again_is_said_before_pod_and_job_have_failed(case: str) -> None:
    step, code, words, reason = FOR_GOOD[case]
    name = the_job()
    scenes = {
        phase: conditions(
            with_node(a_tuning(), a_job(name), a_tuning_pod(name, ended=(step, int(code), words), phase=phase))
        )["JobStarted"]
        for phase in ("Running", "Failed")
    }
    told = scenes["Running"]
    assert told[:2] == ("False", reason)
    assert f"Pod {name}-abcde, {step}" in told[2]
    assert scenes["Failed"] == told, "one event, not several of which the last is right"


def given_up(*, minutes: float, pods: bool = True, status: Mapping[str, Any] | None = None) -> Plan:
    """The plan so long after the Job failed for its data."""
    workspace = a_tuning(status=status) if status else a_tuning()
    name = the_job()
    pod = a_tuning_pod(name, ended=("trainer", 65, "DataInvalid: rows.jsonl row 3"), phase="Failed")
    since = (NOON - timedelta(minutes=minutes)).isoformat()
    job = a_job(name, failed="PodFailurePolicy", since=since)
    return with_node(workspace, job, *([pod] if pods else []))


@pytest.mark.money
def test_a_job_that_was_given_up_keeps_its_node_for_a_while_and_then_gives_it_back() -> None:
    soon = given_up(minutes=4)
    assert (deleted(soon), soon.look_again) == ([], 60)
    later = given_up(minutes=5)
    assert deleted(later) == [f"Machine {FIRST}"]
    assert applied(later, "Machine") == applied(later, "Job") == []
    assert later.report[0].status["targetNodeCount"] == 0
    for todo in (soon, later):
        told = conditions(todo)["WorkspaceReady"]
        assert told[:2] == ("False", "DataInvalid")
        assert "rows.jsonl row 3" in told[2]


def test_its_words_stay_when_its_pod_has_gone_with_the_node() -> None:
    status = given_up(minutes=5).report[0].status
    kept = given_up(minutes=6, pods=False, status=status)
    assert kept.report == ()
    forgotten = given_up(minutes=6, pods=False)
    assert conditions(forgotten)["JobStarted"][1] == "WorkspaceTuningJobStatusFailed"


@pytest.mark.money
def test_once_the_job_is_deleted_a_machine_is_bought_again() -> None:
    name = the_job()
    before = a_tuning(status=given_up(minutes=5).report[0].status)
    gone = planned(before, a_job(name, failed="PodFailurePolicy"))
    assert applied(gone, "Machine") == []
    todo = planned(a_tuning(status=gone.report[0].status))
    assert [step.manifest["kind"] for step in todo.apply] == ["Machine"]


CANARY = "sig=CANARY4c1d"


@pytest.mark.security
@pytest.mark.parametrize("case", [*FAILURES, "at work", "tried again", "done", "mistaken"])
def test_what_signs_a_url_is_in_no_status_event_or_log_line(case: str, count_cases: Callable[[str, int], None]) -> None:
    workspace = a_tuning(tuning={"input": {"urls": [f"https://example.com/rows.jsonl?{CANARY}"]}})
    name = the_job(workspace)
    step, code, words, _ = FAILURES.get(case, FAILURES["network"])
    pod = a_tuning_pod(name, ended=(step, int(code), words), phase="Failed")
    scenes: dict[str, Plan] = {
        "at work": with_node(workspace, a_job(name), a_tuning_pod(name, running="trainer")),
        "tried again": with_node(workspace, a_job(name), pod),
        "done": with_node(workspace, a_job(name, complete=True), a_tuning_pod(name, ended=("publish", 0, "{}"))),
        "mistaken": planned(a_tuning(tuning={"input": {"urls": [f"ftp://example.com/x?{CANARY}"]}})),
    }
    todo = scenes.get(case) or with_node(workspace, a_job(name, failed="PodFailurePolicy"), pod)
    assert todo.report
    for told in (todo.report, todo.events, todo.summary()):
        assert CANARY not in str(told)
    count_cases("canaries of a tuning", 1)


def test_a_job_between_two_tries_says_after_what() -> None:
    name = the_job()
    pod = a_tuning_pod(name, ended=("download", int(ExitCode.DOWNLOAD_FAILED), "DownloadFailed: 503"), phase="Failed")
    status, _, message = conditions(with_node(a_tuning(), a_job(name), pod))["JobStarted"]
    assert status == "Unknown"
    assert "tries again after" in message
    assert "503" in message


def test_a_configuration_that_is_not_there_buys_nothing() -> None:
    todo = planned(a_tuning(tuning={"config": "mine"}))
    assert todo.apply == ()
    told = conditions(todo)["WorkspaceReady"]
    assert told[1] == "ConfigMapMissing"
    assert "ConfigMap mine" in told[2]


@pytest.mark.badinput
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistaken_configuration_buys_nothing_and_is_told(case: str, count_cases: Callable[[str, int], None]) -> None:
    text, method, told = MISTAKES[case]
    seen = seen_of(a_tuning(tuning={"config": "mine", "method": method}))
    seen = replace(seen, own_config={"kind": "ConfigMap", "data": {"training_config.yaml": text}})
    todo = plan(seen, NOON, catalog=CATALOG, installation=INSTALLATION)
    assert todo.apply == ()
    status, reason, message = conditions(todo)["WorkspaceReady"]
    assert (status, reason) == ("False", "ConfigInvalid")
    assert re.search(told.replace("?", r"\?"), message)
    count_cases("bad input of a tuning, as the status tells it", 1)


def test_a_missing_push_secret_is_named_after_a_minute() -> None:
    name = the_job()
    pod = a_tuning_pod(name, sandbox=False)
    status, reason, message = conditions(with_node(a_tuning(), a_job(name), pod))["JobStarted"]
    assert (status, reason) == ("False", "VolumeNotMounted")
    assert "Secret push" in message


@pytest.mark.parametrize(
    ("image", "exactly"),
    [
        ("r.io/a/b:1", "r.io/a/b@sha256:x"),
        ("10.0.0.1:5000/a:1", "10.0.0.1:5000/a@sha256:x"),
        ("r.io:5000/a/b", "r.io:5000/a/b@sha256:x"),
    ],
)
def test_a_result_is_named_by_digest(image: str, exactly: str) -> None:
    assert Result(image, "sha256:x").exactly == exactly
