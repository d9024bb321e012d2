"""One writer at a time, whatever happens to the one that writes."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from kaito_operator.kube.client import Kube
from kaito_operator.leader import Leader
from tests.support.control_plane import ApiServer
from tests.support.lease_holder import LEASE, SECONDS
from tests.support.waiting import soon

pytestmark = [pytest.mark.controlplane, pytest.mark.money]


def leader(kube: Kube, namespace: str, host: str, *, only_here: bool = False, seconds: float = 15) -> Leader:
    """One in the tests' own process, which must not end: a lost term shows in what the test looks at."""
    return Leader(
        kube,
        name=LEASE,
        namespace=namespace,
        host=host,
        seconds=seconds,
        only_here=only_here,
        end=lambda: None,
    )


def spec(server: ApiServer, namespace: str) -> dict[str, Any]:
    found = server.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}")
    return found["spec"] if found else {}


@contextmanager
def holder(server: ApiServer, namespace: str, host: str) -> Iterator[subprocess.Popen[str]]:
    """A process that leads and writes."""
    command = [sys.executable, "-m", "tests.support.lease_holder", str(server.kubeconfig()), namespace, host]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "leading\n"
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def term(candidate: Leader, *, within: float = 30.0) -> AsyncIterator[float]:
    """A term that begins within a time; the seconds it took to begin."""
    started = time.monotonic()
    async with asyncio.timeout(within) as limit, candidate.term():
        limit.reschedule(None)
        yield time.monotonic() - started


async def test_the_second_waits_and_leads_at_once_when_the_first_gives_back(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    first, second = leader(kube, namespace, "first"), leader(kube, namespace, "second")
    async with term(first):
        assert spec(api_server, namespace)["holderIdentity"].startswith("first_")
        with pytest.raises(TimeoutError):
            async with term(second, within=1.0):
                raise AssertionError("there are two leaders")
        assert (first.leads, second.leads) == (True, False)
    assert spec(api_server, namespace)["holderIdentity"] == ""
    async with term(second):
        assert (first.leads, second.leads) == (False, True)
        assert spec(api_server, namespace)["leaseTransitions"] == 1


async def test_a_renewed_lease_is_held_beyond_its_duration(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    first = leader(kube, namespace, "first", seconds=2 * SECONDS)
    async with term(first):
        before = spec(api_server, namespace)
        await asyncio.sleep(3 * SECONDS)
        assert first.leads
        after = spec(api_server, namespace)
    assert after["renewTime"] > before["renewTime"]
    assert (after["acquireTime"], after["holderIdentity"]) == (before["acquireTime"], before["holderIdentity"])


async def test_the_lease_of_a_killed_process_is_taken_when_it_has_run_out_and_not_before(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    with holder(api_server, namespace, "killed") as process:
        process.kill()
        duration = spec(api_server, namespace)["leaseDurationSeconds"]
        async with term(leader(kube, namespace, "next")) as waited:
            assert duration <= waited


async def test_the_new_process_of_a_pod_takes_its_predecessors_lease_at_once(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    with holder(api_server, namespace, "pod-a_b") as process:
        process.kill()
        async with term(leader(kube, namespace, "pod-a_b", only_here=True)) as waited:
            assert waited < spec(api_server, namespace)["leaseDurationSeconds"]


async def test_two_processes_of_one_host_are_two(kube: Kube, namespace: str) -> None:
    first, second = leader(kube, namespace, "laptop"), leader(kube, namespace, "laptop")
    async with term(first):
        with pytest.raises(TimeoutError):
            async with term(second, within=2 * SECONDS):
                raise AssertionError("there are two leaders")


@pytest.mark.faults
async def test_a_process_that_was_suspended_ends_without_another_write(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    """Once it is connected: a write whose connection is still being made when it is suspended goes out afterwards."""
    written = f"/api/v1/namespaces/{namespace}/configmaps/sleeper"
    with holder(api_server, namespace, "sleeper") as process:
        await soon(lambda: api_server.get(written), within=30, what="its first write")
        process.send_signal(signal.SIGSTOP)
        async with term(leader(kube, namespace, "next")):
            before = (api_server.get(written) or {}).get("data")
            process.send_signal(signal.SIGCONT)
            code = await asyncio.to_thread(process.wait, 120)
            assert code == 1
            assert (api_server.get(written) or {}).get("data") == before
            assert spec(api_server, namespace)["holderIdentity"].startswith("next_")


@pytest.mark.faults
async def test_a_process_whose_loop_hangs_ends(api_server: ApiServer, namespace: str) -> None:
    with holder(api_server, namespace, "stuck") as process:
        assert process.stdin is not None
        process.stdin.write("hang\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.wait, 120) == 1


@pytest.mark.faults
async def test_a_process_that_lost_its_lease_to_another_ends(api_server: ApiServer, namespace: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}"
    with holder(api_server, namespace, "robbed") as process:
        api_server.merge(path, {"spec": {"holderIdentity": "somebody"}})
        assert await asyncio.to_thread(process.wait, 120) == 1
    assert spec(api_server, namespace)["holderIdentity"] == "somebody"


async def test_a_lease_that_was_deleted_is_made_anew(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    first = leader(kube, namespace, "first")
    async with term(first):
        api_server.ask("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}")
        await soon(lambda: spec(api_server, namespace), within=30, what="the Lease made anew")
        assert first.leads
    assert spec(api_server, namespace)["holderIdentity"] == ""
