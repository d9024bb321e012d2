"""What `kaito status` says of a tuning step that failed: the step's exit code and last words through the operator."""

from functools import cache

from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.pod_diagnosis import LONGEST_QUOTE
from presets.tuning_steps import FINAL, ExitCode
from tests.support.builders import UID, a_job, a_node, a_ready_machine, a_tuning_pod, a_workspace
from tests.support.planning import applied, conditions, planned
from tuning_runner.transfer_ending import StepFailed

MACHINE = machine_name(UID, slot=0, attempt=1)
WORKSPACE = a_workspace(
    tuning={
        "preset": {"name": "smollm2-135m-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/rows.jsonl"]},
        "output": {"image": "registry.example.com/team/style:1", "imagePushSecret": "push"},
    }
)
NODE = (a_ready_machine(MACHINE, node="n"), a_node("n", held_by="chat", pool=MACHINE))


@cache
def _job() -> str:
    name: str = applied(planned(WORKSPACE, *NODE), "Job")[0]["metadata"]["name"]
    return name


def condition_after(step: str, code: int, last_words: str) -> tuple[str, str, str]:
    """Status, reason and message of WorkspaceReady, after the Job was given up for this."""
    name = _job()
    pod = a_tuning_pod(name, ended=(step, code, last_words), phase="Failed")
    why = "PodFailurePolicy" if code in FINAL else "BackoffLimitExceeded"
    return conditions(planned(WORKSPACE, *NODE, a_job(name, failed=why), pod))["WorkspaceReady"]


def check_told(step: str, failure: StepFailed) -> None:
    """The status has the reason and the step's words, in one line, and names the step."""
    code = ExitCode(failure.code)
    status, reason, message = condition_after(step, code, f"{code.reason}: {failure}")
    words = " ".join(str(failure).split())
    assert (status, reason) == ("False", code.reason)
    assert words[: LONGEST_QUOTE - len(code.reason) - 2] in message
    assert f", {step}: " in message
    assert "\n" not in message
