"""What the operators ask of the API server, read from its audit log: nothing when idle, nothing that is not granted."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import LocalCluster, eventually
from tests.system.conftest import ready, workspace_yaml

pytestmark = pytest.mark.system
OPERATORS = (
    "system:serviceaccount:kaito-system:kaito-workspace",
    "system:serviceaccount:kaito-system:kaito-gpu-provisioner",
)
IDLE_SECONDS = 20.0
LEASE = {"get leases", "update leases"}


def requests_of(log: Path, *, after: int = 0) -> list[dict[str, Any]]:
    """The finished requests of our two service accounts, past the first ``after`` bytes of the audit log."""
    with log.open("rb") as lines:
        lines.seek(after)
        entries = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [e for e in entries if e["user"]["username"] in OPERATORS and e["stage"] == "ResponseComplete"]


def asked(entries: list[dict[str, Any]]) -> set[str]:
    return {f"{e['verb']} {e['objectRef']['resource']}" for e in entries if e["verb"] not in ("watch", "list")}


def quiet(log: Path, *, seconds: float) -> bool:
    """Whether nothing but the Lease is asked for in these seconds."""
    start = log.stat().st_size
    threading.Event().wait(seconds)
    return asked(requests_of(log, after=start)) <= LEASE


def test_one_ready_workspace_costs_nothing_but_watches_and_the_lease(cluster: LocalCluster) -> None:
    cluster.apply(workspace_yaml("quiet"))
    eventually(lambda: ready(cluster, "quiet"), within=300, what="WorkspaceReady")
    eventually(lambda: quiet(cluster.audit_log, seconds=5), within=300, what="nothing of becoming ready is under way")
    start = cluster.audit_log.stat().st_size
    threading.Event().wait(IDLE_SECONDS)

    seen = requests_of(cluster.audit_log, after=start)
    cluster.kubectl("delete", "workspace", "quiet", "--timeout=240s")
    assert asked(seen) <= LEASE
    # The resync lists each kind every five minutes: here never, or once.
    listed = Counter((e["user"]["username"], e["objectRef"]["resource"]) for e in seen if e["verb"] == "list")
    assert [kind for kind, times in listed.items() if times > 1] == []


@pytest.mark.security
def test_every_request_the_operators_ever_made_was_allowed(cluster: LocalCluster) -> None:
    refused = [
        f"{e['verb']} {e['requestURI']}" for e in requests_of(cluster.audit_log) if e["responseStatus"]["code"] == 403
    ]
    assert refused == []
