"""The loop on a real API server: what it reaches, what a crash at any write leaves, and what it asks when idle."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kaito_operator.api.kinds import CONFIG_MAP, NODECLAIM, WORKSPACE
from kaito_operator.api.labels import WORKSPACE_FINALIZER
from kaito_operator.handlers import watch
from kaito_operator.kube.client import Kube
from kaito_operator.metrics import Metrics
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Event, Key, Plan, Ref
from kaito_operator.reconciler import RESTLESS, KindAppeared, Reconciler, Watch
from kaito_operator.workqueue import Retry
from tests.support.control_plane import ApiServer, establish, withdraw
from tests.support.tiny_controller import POISON, Seen, a_workspace, tiny_controller, workspaces
from tests.support.waiting import soon

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("crds")]

WRITES_OF_A_LIFE = 6
"""Finalizer on, ConfigMap, status and event that say so, status and event when it is there."""


def reconciler(kube: Kube, *, resync_seconds: float = 300.0) -> Reconciler[Seen]:
    return Reconciler(tiny_controller(), kube, metrics=Metrics("tiny"), resync_seconds=resync_seconds)


async def at_rest(loop: Reconciler[Seen], key: Key) -> int:
    """Makes passes until one finds nothing to do; how many it took."""
    for passes in range(1, 20):
        if await loop.reconcile(key) is None:
            return passes
    raise AssertionError("no rest after 20 passes")


@asynccontextmanager
async def running(loop: Reconciler[Seen], kube: Kube) -> AsyncIterator[None]:
    """The whole loop with its watches, as ``__main__`` has it."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(watch(loop.controller, kube, loop.saw, spawned=lambda: None)),
            group.create_task(loop.observe()),
            group.create_task(loop.work()),
        ]
        yield
        for task in tasks:
            task.cancel()


async def quiet(server: ApiServer, *, seconds: float) -> bool:
    """Whether the operator asks for nothing in these seconds."""
    start = server.now()
    await asyncio.sleep(seconds)
    return start.requests() == []


def reason(server: ApiServer, path: str) -> str:
    found = server.get(path) or {}
    return str(next((c["reason"] for c in found.get("status", {}).get("conditions", [])), ""))


def events(server: ApiServer, namespace: str) -> list[str]:
    return sorted(e["reason"] for e in server.ask("GET", f"/api/v1/namespaces/{namespace}/events")["items"])


async def test_a_life_takes_six_writes_and_ends_with_nothing_left(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    key, path = Key(namespace, "life"), f"{workspaces(namespace)}/life"
    api_server.ask("POST", workspaces(namespace), a_workspace("life", namespace))
    loop, start = reconciler(kube), api_server.now()
    await loop.resync()
    await at_rest(loop, key)
    assert sorted(start.writes()) == sorted(
        ["patch workspaces", "patch configmaps", *["patch workspaces/status"] * 2, *["create events"] * 2]
    )
    assert reason(api_server, path) == "Copied"
    assert events(api_server, namespace) == ["Copied", "Copying"]

    api_server.ask("DELETE", path)
    await loop.resync()
    await at_rest(loop, key)
    assert api_server.get(path) is None
    assert api_server.ask("GET", f"/api/v1/namespaces/{namespace}/configmaps")["items"] == []
    assert (loop.mirror.all(WORKSPACE), loop.mirror.of_workspace(CONFIG_MAP, key)) == ([], [])


class Crash(Exception):
    """The process ends here."""


@pytest.mark.money
@pytest.mark.parametrize("answered", [False, True], ids=["before it is sent", "before its answer is read"])
@pytest.mark.parametrize("nth", range(1, WRITES_OF_A_LIFE + 1))
async def test_a_crash_at_any_write_is_made_good_by_the_next_process(
    api_server: ApiServer, kube: Kube, namespace: str, nth: int, answered: bool
) -> None:
    api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
    start, writes = api_server.now(), 0

    def at_write(*_: object) -> bool:
        nonlocal writes
        writes += 1
        if writes == nth:
            raise Crash
        return True

    def at_answer(verb: str, *_: object) -> None:
        if verb not in ("GET", "LIST"):
            at_write()

    hooks: dict[str, Any] = {"counted": at_answer} if answered else {"may_write": at_write}
    doomed = await Kube.connect(str(api_server.kubeconfig()), **hooks)
    first = reconciler(doomed)
    await first.resync()
    with pytest.raises(Crash):
        await at_rest(first, Key(namespace, "w"))
    await doomed.close()

    second = reconciler(kube)
    await second.resync()
    await at_rest(second, Key(namespace, "w"))
    assert reason(api_server, f"{workspaces(namespace)}/w") == "Copied"
    assert len(set(events(api_server, namespace))) == len(events(api_server, namespace))
    assert len(start.writes()) <= WRITES_OF_A_LIFE, "nothing that was answered is written twice"
    copies = api_server.ask("GET", f"/api/v1/namespaces/{namespace}/configmaps")["items"]
    assert [c["metadata"]["name"] for c in copies] == ["w"]


async def test_a_running_loop_reacts_repairs_and_is_silent_when_idle(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    path, copy = f"{workspaces(namespace)}/w", f"/api/v1/namespaces/{namespace}/configmaps/w"
    begun = time.monotonic()
    async with running(reconciler(kube), kube):
        api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
        await soon(lambda: reason(api_server, path) == "Copied")
        api_server.merge(copy, {"data": {"of": "nobody"}})
        uid = (api_server.get(path) or {})["metadata"]["uid"]
        await soon(lambda: (api_server.get(copy) or {})["data"] == {"of": uid})
        api_server.ask("DELETE", copy)
        await soon(lambda: api_server.get(copy))
        await soon(lambda: reason(api_server, path) == "Copied")

        meta = (api_server.get(path) or {})["metadata"]
        assert (meta["finalizers"], "annotations" in meta) == ([WORKSPACE_FINALIZER], False), "kopf leaves no trace"

        while not await quiet(api_server, seconds=1):  # what is under way comes to its end
            assert time.monotonic() < begun + 120, "it comes to no end"
        assert await quiet(api_server, seconds=4)

        api_server.ask("DELETE", path)
        await soon(lambda: api_server.get(path) is None)


async def test_one_poisoned_key_is_logged_with_its_name_and_stops_nobody(
    api_server: ApiServer, kube: Kube, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (POISON, "healthy"):
        api_server.ask("POST", workspaces(namespace), a_workspace(name, namespace))

    def told() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "kaito_operator.workqueue"]

    with caplog.at_level(logging.ERROR):
        async with running(reconciler(kube), kube):
            await soon(lambda: reason(api_server, f"{workspaces(namespace)}/healthy") == "Copied")
            await soon(told)
    assert all(line.startswith(f"{namespace}/{POISON}: unexpected error; again in") for line in told())


async def test_a_missed_deletion_is_repaired_by_the_resync(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
    loop = reconciler(kube)
    await loop.resync()
    await at_rest(loop, Key(namespace, "w"))
    api_server.ask("DELETE", f"/api/v1/namespaces/{namespace}/configmaps/w")

    assert await loop.reconcile(Key(namespace, "w")) is None, "nobody told the mirror, so it holds a ghost"
    await loop.resync()
    assert await loop.reconcile(Key(namespace, "w")) == 0.0
    assert api_server.get(f"/api/v1/namespaces/{namespace}/configmaps/w") is not None


async def test_a_late_event_changes_nothing_and_wakes_nobody(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    created = api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
    loop = reconciler(kube)
    await loop.resync()
    await at_rest(loop, Key(namespace, "w"))
    known = loop.mirror.get(WORKSPACE, "w", namespace)
    loop.saw(created, gone=False)
    assert loop.mirror.get(WORKSPACE, "w", namespace) == known

    api_server.ask("DELETE", f"{workspaces(namespace)}/w")
    await loop.resync()
    await at_rest(loop, Key(namespace, "w"))
    loop.saw(known or {}, gone=False)
    assert loop.mirror.get(WORKSPACE, "w", namespace) is None, "the echo of a gone object brings nothing back"


async def test_a_key_that_finds_no_rest_is_held_back(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    made = api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
    told = Event(Ref.of(made), made["metadata"]["uid"], "Normal", "Again", "and again")
    restless = dataclasses.replace(tiny_controller(), plan=lambda seen, _: Plan(seen.subject, events=(told,)))
    loop = Reconciler(restless, kube, metrics=Metrics("tiny"))
    await loop.resync()
    pauses = [await loop.reconcile(Key(namespace, "w")) for _ in range(RESTLESS + 3)]
    assert pauses == [0.0] * RESTLESS + [0.4, 0.8, 1.6]


async def test_an_object_that_changes_its_owner_wakes_both(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    looked_at: list[Key] = []

    def observe(_: Mirror, key: Key) -> None:
        looked_at.append(key)

    loop = Reconciler(dataclasses.replace(tiny_controller(), observe=observe), kube, metrics=Metrics("tiny"))
    configs = f"/api/v1/namespaces/{namespace}/configmaps"
    labelled = {"metadata": {"name": "c", "labels": {"kaito.sh/workspace": "before"}}}
    async with running(loop, kube):
        api_server.ask("POST", configs, labelled)
        await soon(lambda: Key(namespace, "before") in looked_at)
        looked_at.clear()
        api_server.merge(f"{configs}/c", {"metadata": {"labels": {"kaito.sh/workspace": "after"}}})
        await soon(lambda: {Key(namespace, "before"), Key(namespace, "after")} <= set(looked_at))


async def test_nothing_is_decided_before_the_first_list(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
    loop, start = reconciler(kube), api_server.now()
    loop.saw(api_server.get(f"{workspaces(namespace)}/w") or {}, gone=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await loop.work()
    assert start.requests() == []


async def test_a_server_that_is_away_is_a_retry_and_not_an_error(api_server: ApiServer, namespace: str) -> None:
    api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
    refusing = await Kube.connect(str(api_server.kubeconfig()), may_write=lambda: False)
    loop = reconciler(refusing)
    await loop.resync()
    with pytest.raises(Retry, match="NotLeading"):
        await loop.reconcile(Key(namespace, "w"))
    await refusing.close()


A_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "nodeclaims.karpenter.sh"},
    "spec": {
        "group": "karpenter.sh",
        "scope": "Cluster",
        "names": {"kind": "NodeClaim", "plural": "nodeclaims"},
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


async def test_a_kind_that_is_installed_later_ends_the_process_so_that_it_is_watched(
    api_server: ApiServer, kube: Kube
) -> None:
    controller = dataclasses.replace(tiny_controller(), watches=(Watch(WORKSPACE), Watch(NODECLAIM)))
    loop = Reconciler(controller, kube, metrics=Metrics("tiny"))
    await loop.resync()
    await loop.resync()
    await asyncio.to_thread(establish, api_server, A_CRD)
    try:
        with pytest.raises(KindAppeared, match=r"nodeclaims of karpenter.sh/v1"):
            await loop.resync()
    finally:
        await asyncio.to_thread(withdraw, api_server, A_CRD)
