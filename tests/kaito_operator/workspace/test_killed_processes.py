"""SIGKILL of the real Workspace operator at every write of a life: it ends as an undisturbed one, nothing made twice.

``tests/support/deaths.py`` says how the processes die. ``test_crashes`` plays the same scenarios within one process,
with a single death at each write of each.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.kaito_operator.workspace.test_crashes import NAME, SCENARIOS, SETTINGS, Stage
from tests.support.control_plane import ApiServer, Moment
from tests.support.deaths import DEATHS, Deaths, way_to_server
from tests.support.hand_world import HandWorld
from tests.support.held_writes import HeldWrites

pytestmark = [pytest.mark.controlplane, pytest.mark.money, pytest.mark.usefixtures("crds")]

KILLED_AT = {
    "create": {"PATCH workspaces", "PATCH machines", "PATCH deployments", "PATCH services"},
    "create two": {"PATCH workspaces", "PATCH machines", "PATCH deployments", "PATCH services"},
    "delete": {"DELETE machines", "DELETE deployments", "DELETE services", "PATCH workspaces"},
    "tuning": {"PATCH workspaces", "PATCH machines", "PATCH jobs", "PATCH deployments", "PATCH services"},
    "tuning, deleted": {"DELETE machines", "PATCH workspaces"},
}
"""The writes that one of the processes has to have carried out and then died, whatever else it writes."""


def environment(namespace: str) -> dict[str, str]:
    """The variables of a process; all of a namespace are one pod, so the next leads at once."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("KAITO_")},
        "RELEASE_NAMESPACE": namespace,
        "POD_NAME": "operator",
        "KAITO_MODEL_FILES": SETTINGS.model_files,
        "KAITO_TUNING_STORAGE_CLASS": SETTINGS.tuning_storage_class,
    }


def rested(stage: Stage) -> Callable[[], bool]:
    """Moves the world a step; whether it has come to what the scenario ends in."""
    world = HandWorld(stage.server, stage.namespace)

    def over() -> bool:
        if world.step():
            return False
        found = stage.server.get(f"{stage.path}/{NAME}")
        if stage.scenario.deleted:
            return found is None
        conditions = (found or {}).get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    return over


def kind_of(write: str) -> str:
    """``POST machines``."""
    method, path = write.split()
    parts = path.split("/")
    known = ("workspaces", "machines", "nodes", "jobs", "deployments", "services", "events")
    return f"{method} {next((part for part in parts if part in known), path)}"


@pytest.fixture
async def processes(api_server: ApiServer, namespace: str, tmp_path: Path) -> AsyncIterator[Deaths]:
    """Those of the operator, one after another."""
    writes, kubeconfig = HeldWrites(), tmp_path / "kubeconfig"
    async with way_to_server(writes, api_server, kubeconfig=kubeconfig):
        arguments = ["workspace", "--kubeconfig", str(kubeconfig)]
        yield Deaths(writes, arguments, environment(namespace), tmp_path / "log")


@asynccontextmanager
async def staged(server: ApiServer, name: str, scenario: str) -> AsyncIterator[Stage]:
    """The scenario at its beginning, in a namespace of its own."""
    slug = scenario.replace(" ", "-").replace(",", "")
    stage = Stage(server, f"{name}-{slug}", SCENARIOS[scenario])
    await stage.prepare()
    yield stage
    for connection in stage.connections:
        await connection.close()


def made_twice(start: Moment) -> dict[str, int]:
    return {name: times for name, times in Counter(start.created()).items() if times > 1}


ON_DEMAND = [pytest.param(name, marks=pytest.mark.crash) for name in KILLED_AT if "tuning" in name]


@pytest.mark.parametrize("scenario", ["create", "create two", "delete", *ON_DEMAND])
async def test_killed_at_every_write_it_ends_as_if_undisturbed(
    api_server: ApiServer, processes: Deaths, count_cases: Callable[[str, int], None], scenario: str
) -> None:
    async with staged(api_server, "calm", scenario) as calm:
        await processes.undisturbed(rested(calm))
    start = api_server.now()
    async with staged(api_server, "killed", scenario) as stage:
        await processes.dying_at_every_write(rested(stage))
        await processes.undisturbed(rested(stage))
    assert stage.stored() == calm.stored()
    assert made_twice(start) == {}
    met: dict[str, set[str]] = {when: set() for when in DEATHS}
    for when, what in processes.died_at:
        met[when].add(kind_of(what))
    before, after = (met[when] for when in DEATHS)
    assert after >= KILLED_AT[scenario]
    assert {kind for kind in KILLED_AT[scenario] if "machines" in kind} <= before
    count_cases("operator killed at a write", len(processes.died_at))


@pytest.mark.crash
async def test_killed_at_every_write_of_a_deletion_and_of_what_is_made_anew_with_two_machines_it_ends_as_if_undisturbed(
    api_server: ApiServer, processes: Deaths, count_cases: Callable[[str, int], None]
) -> None:
    async with staged(api_server, "scaled", "create two") as calm:
        await processes.undisturbed(rested(calm))
    async with staged(api_server, "again", "delete") as first:
        start = api_server.now()
        await processes.dying_at_every_write(rested(first))
    second = Stage(api_server, first.namespace, SCENARIOS["create two"])
    api_server.ask("POST", second.path, second.scenario.manifest)
    await processes.dying_at_every_write(rested(second))
    await processes.undisturbed(rested(second))
    assert second.stored() == calm.stored()
    assert made_twice(start) == {}
    count_cases("operator killed at a write", len(processes.died_at))
