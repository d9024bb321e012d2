"""The local cluster and the way of one Workspace through it: times, memory, and what the operators ask when idle."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, measure
from kaito_cli.connection import LOCAL
from local_cluster import cluster
from tests.support.cluster import ARM, KAITO, LocalCluster
from tests.support.waiting import eventually
from tests.system.conftest import CHAT, ready, workspace_yaml

IDLE_SECONDS = 60.0
OPERATORS = "system:serviceaccount:kaito-system:"


@measure("cluster.")
def cluster_alone() -> Iterator[Figure]:
    """Without operators: up, a second node, memory, down."""
    local = LocalCluster(f"bench-{os.getpid()}")
    started = time.monotonic()
    local.up("--bare")
    yield Figure("cluster.up", time.monotonic() - started, "s")
    started = time.monotonic()
    local.down()
    yield Figure("cluster.down", time.monotonic() - started, "s")


@measure("demo.")
def demo() -> Iterator[Figure]:
    """`kaito demo` from nothing to the printed answer; not where a local cluster is in use."""
    if cluster.is_up(LOCAL):
        return
    started = time.monotonic()
    subprocess.run([KAITO, "demo"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600)
    yield Figure("demo.to_answer", time.monotonic() - started, "s")
    subprocess.run([KAITO, "local", "down"], check=True, stdout=subprocess.DEVNULL, timeout=60)


@measure("workspace.")
def one_workspace() -> Iterator[Figure]:
    """With operators, 5 s of boot time: apply to ready, to answer, memory, an idle minute, delete."""
    local = LocalCluster(f"bench-{os.getpid()}")
    started = time.monotonic()
    local.up()
    yield Figure("workspace.cluster_with_operators_up", time.monotonic() - started, "s")
    try:
        yield from _way_of_one(local)
    finally:
        local.down()


def _way_of_one(local: LocalCluster) -> Iterator[Figure]:
    local.http(f"{ARM}/control/boot", method="PUT", body={"seconds": 5})
    applied = time.monotonic()
    local.apply(workspace_yaml("bench"))
    eventually(lambda: ready(local, "bench"), within=120, what="WorkspaceReady")
    yield Figure("workspace.to_ready", time.monotonic() - applied, "s")
    address = local.get("service", "bench")["spec"]["clusterIP"]
    local.http(f"http://{address}/chat", method="POST", body=CHAT, timeout=60)
    yield Figure("workspace.to_answer", time.monotonic() - applied, "s")
    yield from _memory(local)
    yield from _idle(local)
    deleted = time.monotonic()
    local.kubectl("delete", "workspace", "bench", "--timeout=60s")
    yield Figure("workspace.to_gone", time.monotonic() - deleted, "s")


def _memory(local: LocalCluster) -> Iterator[Figure]:
    processes = local.status()["processes"]
    model = sum(p["rss_mb"] for p in processes if "inference_server" in p["name"])
    together = sum(p["rss_mb"] for p in processes)
    yield Figure("workspace.rss_mb_without_the_model", together - model, "MB")
    yield Figure("workspace.rss_mb_of_the_model", model, "MB")
    for controller in ("workspace", "gpu-provisioner"):
        own = sum(p["rss_mb"] for p in processes if p["name"] == f"kaito_operator {controller}")
        yield Figure(f"workspace.rss_mb_of_{controller.replace('-', '_')}", own, "MB")


def _idle(local: LocalCluster) -> Iterator[Figure]:
    """Requests of the operators in a minute with one ready Workspace, watches and the Lease aside."""
    settled = threading.Event()
    settled.wait(5)
    start = local.audit_log.stat().st_size
    settled.wait(IDLE_SECONDS)
    asked = list(_asked(local.audit_log, after=start))
    other = [(verb, resource) for verb, resource in asked if verb != "watch" and resource != "leases"]
    per_minute = 60.0 / IDLE_SECONDS
    yield Figure("workspace.idle_requests_per_minute", len(other) * per_minute, "1/min")
    leases = sum(resource == "leases" for _, resource in asked)
    yield Figure("workspace.idle_lease_requests_per_minute", leases * per_minute, "1/min")


def _asked(log: Path, *, after: int) -> Iterator[tuple[str, str]]:
    with log.open("rb") as lines:
        lines.seek(after)
        for line in lines:
            entry = json.loads(line)
            if entry["user"]["username"].startswith(OPERATORS) and entry["stage"] == "ResponseComplete":
                yield entry["verb"], entry["objectRef"]["resource"]
