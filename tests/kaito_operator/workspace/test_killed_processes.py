"""SIGKILL of the real Workspace operator at every write of a life: it ends as an undisturbed one, nothing made twice.

``tests/support/deaths.py`` says how the processes die. ``test_crashes`` plays the same scenarios within one process,
with a single death at each write of each.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kaito_operator.workspace.test_crashes import NAME, SCENARIOS, SETTINGS, Stage
from tests.support.control_plane import ApiServer
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


ON_DEMAND = [pytest.param(name, marks=pytest.mark.crash) for name in KILLED_AT if "tuning" in name]


@pytest.mark.parametrize("scenario", ["create", "create two", "delete", *ON_DEMAND])
async def test_killed_at_every_write_it_ends_as_if_undisturbed(
    api_server: ApiServer, tmp_path: Path, count_cases: Callable[[str, int], None], scenario: str
) -> None:
    slug = scenario.replace(" ", "-").replace(",", "")
    calm = Stage(api_server, f"calm-{slug}", SCENARIOS[scenario])
    stage = Stage(api_server, f"killed-{slug}", SCENARIOS[scenario])
    writes, kubeconfig = HeldWrites(), tmp_path / "kubeconfig"
    arguments = ["workspace", "--kubeconfig", str(kubeconfig)]
    processes = Deaths(writes, arguments, environment(calm.namespace), tmp_path / "log")
    async with way_to_server(writes, api_server, kubeconfig=kubeconfig):
        await calm.prepare()
        await processes.undisturbed(rested(calm))
        await stage.prepare()
        start = api_server.now()
        await processes.dying_at_every_write(rested(stage))
        await processes.undisturbed(rested(stage))
    for connection in (*calm.connections, *stage.connections):
        await connection.close()
    assert stage.stored() == calm.stored()
    assert {name: times for name, times in Counter(start.created()).items() if times > 1} == {}
    met: dict[str, set[str]] = {when: set() for when in DEATHS}
    for when, what in processes.died_at:
        met[when].add(kind_of(what))
    before, after = (met[when] for when in DEATHS)
    assert after >= KILLED_AT[scenario]
    assert {kind for kind in KILLED_AT[scenario] if "machines" in kind} <= before
    count_cases("operator killed at a write", len(processes.died_at))
