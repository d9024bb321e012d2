"""A process that dies at any write: the next one ends where an undisturbed one does, and nothing is created twice.

On the real API server; the world is moved by hand, so that every run meets the same. The end of the process is the end
of its requests: none leaves it after the one at which it dies. ``test_killed_processes.py`` has SIGKILL.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kaito_operator.kube.client import Kube
from kaito_operator.metrics import Metrics
from kaito_operator.plan import Key
from kaito_operator.reconciler import Reconciler
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workqueue import Retry
from kaito_operator.workspace.controller import workspace_controller
from kaito_operator.workspace.observe import Observed
from presets.catalog import load_catalog
from tests.support.control_plane import ApiServer
from tests.support.hand_world import HandWorld
from tests.support.workspaces import workspace_of

pytestmark = [pytest.mark.controlplane, pytest.mark.money, pytest.mark.usefixtures("crds")]
Json = dict[str, Any]
NAME = "chat"
SETTINGS = WorkspaceSettings(KAITO_MODEL_FILES="baked", KAITO_TUNING_STORAGE_CLASS="kept")
CONTROLLER = workspace_controller(SETTINGS, load_catalog())
KINDS = {
    "workspaces": "/apis/kaito.sh/v1alpha1",
    "deployments": "/apis/apps/v1",
    "jobs": "/apis/batch/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
}


class Killed(Exception):
    """The process ends here."""


@dataclass
class Life:
    """A process that dies at its nth write, before or after it; with 0 it lives on."""

    dies_at: int = 0
    answered: bool = False
    writes: int = 0
    dead: bool = False

    def may_write(self) -> bool:
        """Asked right before each write."""
        return self._at_write(now=not self.answered)

    def counted(self, verb: str, *_: object) -> None:
        """Told of each answer."""
        if self.answered and verb not in ("GET", "LIST"):
            self._at_write(now=True)

    def _at_write(self, *, now: bool) -> bool:
        self.writes += now
        if self.dead or (now and self.writes == self.dies_at):
            self.dead = True
            raise Killed
        return True


@dataclass(frozen=True)
class Scenario:
    """What the user does to a Workspace, and what is true when all is done."""

    manifest: Json
    deleted: bool = False


PRESET: Json = {"inference": {"preset": {"name": "smollm2-135m-instruct"}}}
TUNING: Json = {
    "tuning": {
        "preset": {"name": "smollm2-135m-instruct"},
        "method": "lora",
        "input": {"urls": ["https://example.com/rows.jsonl"]},
        "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
    }
}
SCENARIOS = {
    "create": Scenario(workspace_of(NAME, **PRESET)),
    "create two": Scenario(workspace_of(NAME, count=2, **PRESET)),
    "delete": Scenario(workspace_of(NAME, **PRESET), deleted=True),
    "tuning": Scenario(workspace_of(NAME, **TUNING)),
    "tuning, deleted": Scenario(workspace_of(NAME, **TUNING), deleted=True),
}


@dataclass(frozen=True)
class Stage:
    """A namespace in which one scenario is played."""

    server: ApiServer
    namespace: str
    scenario: Scenario
    connections: list[Kube] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/apis/kaito.sh/v1alpha1/namespaces/{self.namespace}/workspaces"

    async def prepare(self) -> None:
        """The namespace, and what the user does in it; a Workspace that is to be deleted has been ready before."""
        self.server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        account = {"metadata": {"name": "default"}, "automountServiceAccountToken": False}
        self.server.ask("POST", f"/api/v1/namespaces/{self.namespace}/serviceaccounts", account)
        self.server.ask("POST", self.path, self.scenario.manifest)
        if self.scenario.deleted:
            await self._until_rest(Life())
            self.server.ask("DELETE", f"{self.path}/{NAME}")

    async def play(self, life: Life) -> Json:
        """The scenario from its beginning to its end, by as many processes as it takes. Answers what is stored then."""
        await self.prepare()
        for each in (life, Life()):
            try:
                await self._until_rest(each)
            except Killed:
                continue
            break
        return self.stored()

    async def _until_rest(self, life: Life) -> None:
        """One process, and the world, until neither has anything to do."""
        kube = await Kube.connect(str(self.server.kubeconfig()), may_write=life.may_write, counted=life.counted)
        self.connections.append(kube)
        loop: Reconciler[Observed] = Reconciler(CONTROLLER, kube, metrics=Metrics("crash"))
        world = HandWorld(self.server, self.namespace)
        for _ in range(60):
            await loop.resync()
            wrote = False
            while await self._pass(loop):
                wrote = True
            if not world.step() and not wrote:
                return
        raise AssertionError("no rest after 60 passes")

    async def _pass(self, loop: Reconciler[Observed]) -> bool:
        """Whether it wrote, or has to be made again."""
        try:
            return await loop.reconcile(Key(self.namespace, NAME)) == 0.0
        except Retry:
            return True

    def stored(self) -> Json:
        """Everything of the namespace, by what it is, without what differs from run to run."""
        world = HandWorld(self.server, self.namespace)
        machines = world.machines()
        found = [("Machine", each) for each in machines] + [("Node", each) for each in world.nodes()]
        for plural, group in KINDS.items():
            found += [
                (plural, each) for each in world.all(group, plural) if each["metadata"]["name"] != "kube-root-ca.crt"
            ]
        text = json.dumps(
            {f"{kind} {each['metadata']['name']}": _essence(each) for kind, each in found}, sort_keys=True
        )
        for each in machines:
            slot = each["metadata"]["annotations"]["kaito.sh/slot"]
            text = text.replace(each["metadata"]["name"], f"machine-{slot}")
        text = re.sub(rf"{NAME}-[0-9a-f]{{8}}", "JOB", text)
        text = re.sub(r'"[0-9a-f]{8}-[0-9a-f-]{27}"', '"UID"', text.replace(self.namespace, "NAMESPACE"))
        return dict(_in_order(json.loads(re.sub(r'"http://[0-9.]+"', '"ENDPOINT"', text))))


def _in_order(stored: Any) -> Any:
    """Lists of names sorted anew: the names were others."""
    if isinstance(stored, dict):
        return {key: _in_order(value) for key, value in stored.items()}
    if isinstance(stored, list):
        names = all(isinstance(each, str) for each in stored)
        return sorted(stored) if names else [_in_order(each) for each in stored]
    return stored


DIFFERS = ("resourceVersion", "creationTimestamp", "managedFields", "uid", "deletionTimestamp", "generation")
VARIES = (
    "kaito.sh/applied",
    "lastTransitionTime",
    "clusterIP",
    "clusterIPs",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
)


def _essence(stored: Any) -> Any:
    if isinstance(stored, dict):
        meta = stored.get("metadata")
        kept = {key: _essence(value) for key, value in stored.items() if key not in VARIES and key != "metadata"}
        if isinstance(meta, dict):
            kept["metadata"] = _essence({k: v for k, v in meta.items() if k not in DIFFERS})
        return kept
    return [_essence(each) for each in stored] if isinstance(stored, list) else stored


@pytest.fixture
async def stage(api_server: ApiServer) -> AsyncIterator[Callable[[str], Stage]]:
    """Makes stages; their connections are closed in the end."""
    made: list[Stage] = []

    def a_stage(scenario: str) -> Stage:
        namespace = f"crash-{len(made)}-{scenario.replace(' ', '-').replace(',', '')}"
        made.append(Stage(api_server, namespace, SCENARIOS[scenario]))
        return made[-1]

    yield a_stage
    for each in made:
        for connection in each.connections:
            await connection.close()


ON_DEMAND = [pytest.param(name, marks=pytest.mark.crash) for name in SCENARIOS if name not in ("create", "delete")]


@pytest.mark.parametrize("scenario", ["create", "delete", *ON_DEMAND])
async def test_a_process_that_dies_at_any_write_changes_nothing_about_the_end(
    stage: Callable[[str], Stage], count_cases: Callable[[str, int], None], scenario: str
) -> None:
    undisturbed, whole = stage(scenario), Life()
    wanted = await undisturbed.play(whole)
    assert whole.writes >= (5 if SCENARIOS[scenario].deleted else 8)
    for answered in (False, True):
        for nth in range(1, whole.writes + 1):
            disturbed, life = stage(scenario), Life(nth, answered)
            start = disturbed.server.now()
            assert await disturbed.play(life) == wanted, (nth, answered)
            assert life.dead, "it died where it was to die"
            twice = {name: times for name, times in Counter(start.created()).items() if times > 1}
            assert twice == {}, (nth, answered)
    count_cases("crashes at a write", 2 * whole.writes)
