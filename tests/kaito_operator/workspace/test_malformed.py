"""One bad Workspace never stops the others: whatever is stored, the plan says what is wrong and buys nothing."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from kaito_operator.api import crd
from kaito_operator.kube.client import Kube
from kaito_operator.metrics import Metrics
from kaito_operator.reconciler import Reconciler
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.controller import workspace_controller
from kaito_operator.workspace.observe import Observed
from presets.catalog import load_catalog
from tests.support.builders import NOON, a_node, a_workspace, stored
from tests.support.control_plane import ApiServer, Refused
from tests.support.hand_world import HandWorld
from tests.support.planning import applied, conditions, planned
from tests.support.spoiled import spoiled
from tests.support.waiting import eventually, soon
from tests.support.workspaces import workspace_of

pytestmark = [pytest.mark.badinput, pytest.mark.money]
Json = dict[str, Any]
PURE, STORED = 3000, 100


def test_whatever_is_stored_the_plan_says_what_is_wrong_and_buys_nothing(
    count_cases: Callable[[str, int], None],
) -> None:
    refused = 0
    for seed in range(PURE):
        meta = a_workspace(finalizer=False)
        found = {key: meta[key] for key in ("apiVersion", "kind", "metadata")} | spoiled(seed)
        todo = planned(found, a_node("n"))
        told = conditions(todo)["WorkspaceReady"]
        if "Invalid" in told[1] or told[1].startswith("Unknown"):
            refused += 1
            assert (todo.apply, todo.delete, applied(todo, "Machine")) == ((), (), []), seed
            assert told[2], seed
    assert refused > PURE / 2
    count_cases("malformed Workspaces", PURE)


def test_whatever_is_stored_can_be_deleted(count_cases: Callable[[str, int], None]) -> None:
    for seed in range(PURE):
        meta = a_workspace(deleted_at=NOON - timedelta(minutes=10))
        found = {key: meta[key] for key in ("apiVersion", "kind", "metadata")} | spoiled(seed)
        assert planned(stored(found)).finalizer == "drop", seed
    count_cases("malformed Workspaces, deleted", PURE)


CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workspaces.kaito.sh"


@pytest.fixture
def without_rules(api_server: ApiServer, crds: None) -> Iterator[Callable[[], None]]:
    """The CRD takes anything, until what is answered is called."""
    strict = crd.definition(crd.WORKSPACE)
    lax = deepcopy(strict)
    lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    api_server.apply(CRD, lax)
    path = "/apis/kaito.sh/v1alpha1/namespaces/default/workspaces"

    def taken() -> bool:
        try:
            api_server.ask("POST", path, {**workspace_of("probe"), "resource": 7})
        except Refused:
            return False
        api_server.ask("DELETE", f"{path}/probe")
        return True

    eventually(taken, within=30, what="anything is taken")

    def restore() -> None:
        api_server.apply(CRD, strict)
        eventually(lambda: not taken(), within=30, what="the rules hold again")

    yield restore
    restore()


@pytest.mark.controlplane
async def test_a_hundred_malformed_ones_stop_nobody(
    api_server: ApiServer,
    kube: Kube,
    namespace: str,
    without_rules: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    count_cases: Callable[[str, int], None],
) -> None:
    """As older rules may have stored them. They come first, and the good ones are done all the same."""
    path = f"/apis/kaito.sh/v1alpha1/namespaces/{namespace}/workspaces"
    for seed in range(STORED):
        kind = {"apiVersion": "kaito.sh/v1alpha1", "kind": "Workspace"}
        api_server.ask("POST", path, {**kind, "metadata": {"name": f"a-bad-{seed:03}"}, **spoiled(seed)})
    without_rules()
    for number in range(3):
        api_server.ask("POST", path, workspace_of(f"good-{number}"))
    loop: Reconciler[Observed] = Reconciler(
        workspace_controller(WorkspaceSettings(KAITO_MODEL_FILES="baked"), load_catalog()),
        kube,
        metrics=Metrics("malformed"),
    )
    world = HandWorld(api_server, namespace)

    def owners() -> set[str]:
        return {machine["metadata"]["labels"]["kaito.sh/workspace"] for machine in world.machines()}

    def told() -> set[str]:
        everything = world.all("/apis/kaito.sh/v1alpha1", "workspaces")
        return {each["metadata"]["name"] for each in everything if each.get("status", {}).get("conditions")}

    with caplog.at_level(logging.ERROR):
        await loop.resync()
        working = asyncio.create_task(loop.work())
        loop._listed.set()
        good = {f"good-{number}" for number in range(3)}
        await soon(lambda: good <= owners(), within=60, what="the good ones have their Machines")
        # Where a field is of another type than the CRD says, the API server cannot even take a status.
        await soon(lambda: len(told()) >= STORED / 5, within=60, what="those whose status can be written have one")
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert [record.getMessage() for record in caplog.records] == []
    for each in world.all("/apis/kaito.sh/v1alpha1", "workspaces"):
        name = each["metadata"]["name"]
        if each["metadata"].get("finalizers"):
            api_server.merge(f"{path}/{name}", {"metadata": {"finalizers": []}})
        api_server.ask("DELETE", f"{path}/{name}")
    count_cases("malformed Workspaces on the API server", STORED)
