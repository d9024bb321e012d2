"""What a user is told of a Workspace: one line that says what it waits for, and a tree that says why."""

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from kaito_cli.__main__ import application
from kaito_cli.demo import milestones
from kaito_cli.overview import Seen, overview
from kaito_cli.status import rendered

NOW = datetime(2026, 1, 2, 12, 5, tzinfo=UTC)
SINCE = "2026-01-02T12:00:00Z"


def a_condition(type: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "type": type, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": SINCE, "observedGeneration": 1,
    }  # fmt: skip


def a_workspace(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "chat", "namespace": "default", "generation": 1, "creationTimestamp": SINCE},
        "status": {"conditions": list(conditions), "endpoint": "http://10.96.0.7"},
    }


def a_machine(*conditions: dict[str, Any], node: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": "ws0123456789", "creationTimestamp": SINCE},
        "spec": {"requirements": [{"key": "node.kubernetes.io/instance-type", "values": ["Standard_NC6s_v3"]}]},
        "status": {"conditions": list(conditions), **({"nodeName": node} if node else {})},
    }


QUOTA = "all requested instance types were unavailable during launch: quota; Current Limit: 0"
STUCK = Seen(
    a_workspace(
        a_condition("MachineReady", "False", "QuotaExceeded", f"Machine ws0123456789: {QUOTA}"),
        a_condition("ResourceReady", "False", "QuotaExceeded", "waits for MachineReady"),
        a_condition("WorkspaceReady", "False", "QuotaExceeded", f"Machine ws0123456789: {QUOTA}"),
    ),
    machines=(a_machine(a_condition("MachineLaunched", "False", "QuotaExceeded", QUOTA)),),
)
READY = Seen(
    a_workspace(
        a_condition("MachineReady", "True", "installNodePluginsSuccess"),
        a_condition("WorkspaceReady", "True", "workspaceReady"),
    ),
    machines=(a_machine(*(a_condition(t, "True", t) for t in ("MachineLaunched", "Ready")), node="aks-0"),),
)


def text(seen: Seen) -> str:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(rendered(overview(seen), now=NOW))
    return captured.get()


def test_a_stuck_workspace_names_the_leaf_in_its_first_line_and_the_machine_below() -> None:
    lines = text(STUCK).splitlines()
    assert lines[0].startswith(f"default/chat is not ready: Machine ws0123456789: {QUOTA} (QuotaExceeded, 5m)")
    assert "Machine ws0123456789 (Standard_NC6s_v3)  QuotaExceeded  5m" in text(STUCK)


def test_what_the_first_line_says_is_not_said_again_by_every_condition() -> None:
    assert text(STUCK).count(f"Machine ws0123456789: {QUOTA}") == 1
    assert "✗ WorkspaceReady  QuotaExceeded  5m\n" in text(STUCK)


def test_what_waits_is_marked_otherwise_than_what_does_not_go_on_by_itself() -> None:
    pending = (
        a_condition("MachineReady", "Unknown", "CreateMachinePending", "Machine ws0123456789 is asked for"),
        a_condition("WorkspaceReady", "False", "workspacePending", "Machine ws0123456789 is asked for"),
    )
    refused = (
        a_condition("MachineReady", "Unknown", "Waiting", "waits for WorkspaceReady"),
        a_condition("WorkspaceReady", "False", "UnknownPreset", "there is no preset 'x'"),
    )
    assert "… MachineReady" in text(Seen(a_workspace(*pending)))
    assert "… WorkspaceReady" in text(Seen(a_workspace(*pending)))
    assert "… MachineReady" in text(Seen(a_workspace(*refused)))
    assert "✗ WorkspaceReady" in text(Seen(a_workspace(*refused)))


def test_a_ready_workspace_says_where_it_answers() -> None:
    assert text(READY).splitlines()[0].startswith("default/chat is ready: http://10.96.0.7 (5m)")


def test_a_tuning_that_serves_nothing_says_where_its_result_is() -> None:
    done = (
        a_condition("TuningSucceeded", "True", "WorkspaceTuningSuccess", "the adapter is at r.io/team/tuned:1"),
        a_condition("WorkspaceReady", "True", "workspaceReady"),
    )
    workspace = a_workspace(*done)
    del workspace["status"]["endpoint"]
    assert text(Seen(workspace)).startswith("default/chat is ready: the adapter is at r.io/team/tuned:1 (5m)\n")


def test_a_workspace_that_nobody_looked_at_says_so() -> None:
    assert "the workspace operator has not looked at it yet" in text(Seen(a_workspace())).splitlines()[0]


def test_the_demo_tells_only_what_the_objects_tell() -> None:
    creating = a_machine(a_condition("MachineLaunched", "False", "Creating"))
    asked = ["Machine ws0123456789 asked for"]
    assert milestones(Seen(a_workspace(), machines=(a_machine(),)), ready=False) == asked
    assert milestones(Seen(a_workspace(), machines=(creating,)), ready=False) == [
        *asked,
        "agent pool ws0123456789 Creating",
    ]
    assert milestones(READY, ready=True) == [
        *asked,
        "agent pool ws0123456789 Creating",
        "node aks-0 joined",
        "ready",
    ]


@pytest.mark.badinput
@pytest.mark.parametrize("command", [["status", "chat"], ["chat", "chat", "hello"]], ids=lambda c: c[0])
def test_a_kubeconfig_that_is_not_there_is_one_line(command: list[str]) -> None:
    done = CliRunner().invoke(application(command[0]), [*command, "--kubeconfig", "/nowhere/kubeconfig"])
    assert (done.exit_code, done.output) == (1, "there is no kubeconfig /nowhere/kubeconfig\n")


@pytest.mark.badinput
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Any) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x, user: x}}], "
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: x, user: {token: t}}]}"
    )
    done = CliRunner().invoke(application("status"), ["status", "chat", "--kubeconfig", str(kubeconfig)])
    assert done.exit_code == 1
    assert done.output.startswith("the cluster says: ")
    assert done.output.count("\n") == 1
