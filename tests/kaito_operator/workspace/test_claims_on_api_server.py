"""NodeClaims on the real API server: what it answers in each state of a claim, and what our operator makes of that."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito_operator.api import crd
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Conflict, Invalid
from kaito_operator.metrics import Metrics
from kaito_operator.plan import Key, Ref
from kaito_operator.reconciler import Reconciler
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.controller import workspace_controller
from kaito_operator.workspace.observe import Observed
from presets.catalog import load_catalog
from tests.support.control_plane import APPLY, ApiServer, Refused, establish, withdraw
from tests.support.workspaces import workspace_of

pytestmark = [pytest.mark.controlplane, pytest.mark.money, pytest.mark.usefixtures("crds", "claims_known")]
Json = dict[str, Any]
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
SETTINGS = {
    "KAITO_MODEL_FILES": "baked",
    "KAITO_NODE_PROVISIONER": "nodeclaim",
    "KAITO_NODE_CLASS": "karpenter.azure.com/AKSNodeClass/default",
}
ZONE = "topology.kubernetes.io/zone"
KARPENTERS = {"finalizers": ["karpenter.sh/termination"]}


@pytest.fixture(scope="module")
def claims_known(api_server: ApiServer) -> Iterator[None]:
    """The CRD, beside that of Machines, and gone after these tests: others need a cluster without it."""
    definition = crd.definition(crd.NODECLAIM)
    establish(api_server, definition)
    yield
    withdraw(api_server, definition)


def a_claim(name: str, *, labels: Json | None = None, size: str = "Standard_D2s_v5") -> Json:
    requirement = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [size]}
    reference = {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "default"}
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {"name": name, **({"labels": labels} if labels else {})},
        "spec": {"expireAfter": "Never", "nodeClassRef": reference, "requirements": [requirement]},
    }


async def test_a_living_claim(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    claim = a_claim(f"alive-{namespace}")
    made = await kube.apply(claim)
    uid, version = made["metadata"]["uid"], made["metadata"]["resourceVersion"]
    assert (await kube.apply(claim, uid=uid))["metadata"]["resourceVersion"] == version, "the same again is no write"
    labelled = await kube.apply(a_claim(claim["metadata"]["name"], labels={"a": "b"}), uid=uid)
    assert labelled["metadata"]["generation"] == made["metadata"]["generation"]
    with pytest.raises(Invalid, match="spec is immutable"):
        await kube.apply(a_claim(claim["metadata"]["name"], size="Standard_D4s_v5"), uid=uid)
    with pytest.raises(Conflict, match="already exists"):
        await kube.create(claim)
    with pytest.raises(Conflict, match="UID in the precondition"):
        await kube.delete(Ref.of(claim), uid="00000000-0000-0000-0000-000000000000")


async def test_a_claim_that_is_being_deleted_takes_writes_as_if_nothing_were(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    claim = a_claim(f"ends-{namespace}")
    uid = (await kube.apply(claim))["metadata"]["uid"]
    path = f"{CLAIMS}/{claim['metadata']['name']}"
    api_server.merge(path, {"metadata": KARPENTERS})
    ends = await kube.delete(Ref.of(claim), uid=uid)
    assert ends is not None, "it lives on"
    again = await kube.delete(Ref.of(claim), uid=uid)
    assert again is not None, "asked once more, it is a success"
    assert again["metadata"]["resourceVersion"] == ends["metadata"]["resourceVersion"], "and no write"
    with pytest.raises(Invalid, match="no new finalizers can be added"):
        await kube.apply({**claim, "metadata": {**claim["metadata"], "finalizers": ["kaito.sh/ours"]}}, uid=uid)
    for guard in (None, uid):
        assert "deletionTimestamp" in (await kube.apply(claim, uid=guard))["metadata"], "a success that is none"
    with pytest.raises(Invalid, match="immutable"):
        await kube.apply(a_claim(claim["metadata"]["name"], size="Standard_D4s_v5"), uid=uid)
    with pytest.raises(Invalid, match=r"metadata\.uid"):
        await kube.apply(claim, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict, match="being deleted"):
        await kube.create(claim)
    api_server.merge(path, {"metadata": {"finalizers": []}})
    with pytest.raises(Conflict, match="uid mismatch"):
        await kube.apply(claim, uid=uid)
    old = {**claim, "metadata": {**claim["metadata"], "resourceVersion": ends["metadata"]["resourceVersion"]}}
    assert (await kube.apply(old))["metadata"]["uid"] != uid, "an old resourceVersion keeps nobody from making it anew"
    with pytest.raises(Invalid, match=r"metadata\.uid"):
        await kube.apply(claim, uid=uid)


def as_karpenter(server: ApiServer, claim: Json, *, force: bool = False, manager: str = "karpenter") -> Json:
    """Server-side apply by that manager. Raises Refused."""
    path = f"{CLAIMS}/{claim['metadata']['name']}?fieldManager={manager}&force={str(force).lower()}"
    return server.ask("PATCH", path, claim, content=APPLY)


async def test_a_label_that_karpenter_owns_is_a_conflict_without_force_and_ours_with_it(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    """Our client always forces: so a claim of ours must never name what is Karpenter's to write."""
    name = f"owned-{namespace}"
    uid = (await kube.apply(a_claim(name)))["metadata"]["uid"]
    as_karpenter(api_server, a_claim(name, labels={ZONE: "one"}))
    with pytest.raises(Refused, match=rf'409 .*conflict with \\"karpenter\\".*{re.escape(ZONE)}'):
        as_karpenter(api_server, a_claim(name, labels={ZONE: "two"}), manager="another")
    forced = await kube.apply(a_claim(name, labels={ZONE: "two"}), uid=uid)
    assert forced["metadata"]["labels"] == {ZONE: "two"}
    taken_back = as_karpenter(api_server, a_claim(name, labels={ZONE: "one"}), force=True)
    assert taken_back["metadata"]["labels"] == {ZONE: "one"}
    left = await kube.apply(a_claim(name, labels={"a": "b"}), uid=uid)
    assert left["metadata"]["labels"] == {ZONE: "one", "a": "b"}, "what we name no more stays with who does"
    with pytest.raises(Refused, match="409"):
        as_karpenter(api_server, a_claim(name, labels={ZONE: "two"}), manager="another")


class Scene:
    """One Workspace, and an operator whose clock is the test's."""

    def __init__(self, server: ApiServer, kube: Kube, namespace: str) -> None:
        self.server, self.namespace, self.ahead = server, namespace, timedelta()
        controller = workspace_controller(WorkspaceSettings.model_validate(SETTINGS), load_catalog())
        self.loop: Reconciler[Observed] = Reconciler(controller, kube, metrics=Metrics("claims"), clock=self.now)
        self.path = f"/apis/kaito.sh/v1alpha1/namespaces/{namespace}/workspaces"

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def rest(self) -> None:
        """Passes until one writes nothing."""
        await self.loop.resync()
        for _ in range(20):
            if await self.loop.reconcile(Key(self.namespace, "chat")) != 0.0:
                return
        raise AssertionError("no rest after 20 passes")

    def claims(self) -> list[Json]:
        selector = f"?labelSelector=kaito.sh%2Fworkspacenamespace%3D{self.namespace}"
        found: list[Json] = self.server.ask("GET", CLAIMS + selector)["items"]
        return found

    def condition(self) -> tuple[str, str, str]:
        conditions = (self.server.get(f"{self.path}/chat") or {})["status"]["conditions"]
        found = next(c for c in conditions if c["type"] == "NodeClaimReady")
        return found["status"], found["reason"], found["message"]

    def says(self, claim: Json, **conditions: tuple[str, str, str]) -> None:
        """Karpenter's finalizer, and what it says."""
        path = f"{CLAIMS}/{claim['metadata']['name']}"
        self.server.merge(path, {"metadata": KARPENTERS})
        told = [
            {"type": type, "status": s, "reason": r, "message": m, "lastTransitionTime": "2026-01-02T11:00:00Z"}
            for type, (s, r, m) in conditions.items()
        ]
        self.server.merge(f"{path}/status", {"status": {"conditions": told}})


@pytest.fixture
def scene(api_server: ApiServer, kube: Kube, namespace: str) -> Scene:
    made = Scene(api_server, kube, namespace)
    api_server.ask("POST", made.path, workspace_of("chat", app=namespace))
    return made


async def test_with_both_kinds_installed_the_one_that_is_set_is_bought_and_nothing_of_the_other(scene: Scene) -> None:
    await scene.rest()
    (claim,) = scene.claims()
    assert "finalizers" not in claim["metadata"]
    assert claim["spec"]["expireAfter"] == "Never"
    assert "resources" not in claim["spec"]
    assert scene.server.ask("GET", "/apis/karpenter.sh/v1alpha5/machines")["items"] == []


async def test_what_karpenter_writes_into_a_claim_stays_its_own(scene: Scene) -> None:
    await scene.rest()
    (claim,) = scene.claims()
    theirs = {"apiVersion": claim["apiVersion"], "kind": claim["kind"], "spec": claim["spec"]}
    meta = {"name": claim["metadata"]["name"], "labels": {ZONE: "one"}, **KARPENTERS}
    as_karpenter(scene.server, {**theirs, "metadata": meta})
    await scene.rest()
    (now,) = scene.claims()
    assert now["metadata"]["labels"] == {**claim["metadata"]["labels"], ZONE: "one"}
    assert now["metadata"]["finalizers"] == KARPENTERS["finalizers"]
    ours = {
        key
        for entry in _managed(scene, now["metadata"]["name"])
        if entry["manager"] != "karpenter"
        for key in entry["fieldsV1"].get("f:metadata", {}).get("f:labels", {})
    }
    assert f"f:{ZONE}" not in ours
    assert ours >= {"f:kaito.sh/workspace"}


def _managed(scene: Scene, name: str) -> list[Json]:
    found: list[Json] = scene.server.ask("GET", f"{CLAIMS}/{name}")["metadata"]["managedFields"]
    return found


async def test_a_claim_that_nobody_manages_is_told(scene: Scene) -> None:
    await scene.rest()
    scene.ahead = timedelta(minutes=3)
    await scene.rest()
    assert scene.condition()[:2] == ("False", "ProvisionerNotAnswering")


async def test_one_that_cannot_be_launched_is_told_given_up_waited_for_and_replaced(scene: Scene) -> None:
    await scene.rest()
    (first,) = scene.claims()
    scene.says(first, Launched=("Unknown", "LaunchFailed", "the subnet is full"))
    scene.ahead = timedelta(seconds=40)
    await scene.rest()
    assert "deletionTimestamp" in scene.claims()[0]["metadata"]
    assert "the subnet is full" in scene.condition()[2]
    await scene.rest()
    assert len(scene.claims()) == 1, "while it goes none is asked for"
    scene.server.merge(f"{CLAIMS}/{first['metadata']['name']}", {"metadata": {"finalizers": []}})
    await scene.rest()
    assert (scene.claims(), scene.condition()[:2]) == ([], ("False", "LaunchFailed"))
    scene.ahead += timedelta(seconds=60)
    await scene.rest()
    (second,) = scene.claims()
    assert second["metadata"]["annotations"]["kaito.sh/attempt"] == "2"
    assert second["metadata"]["name"] != first["metadata"]["name"]


EVENTS: dict[str, tuple[Json, str, str]] = {
    "an event": (
        {"reason": "InsufficientCapacityError", "message": "no such machine free"},
        "AllocationFailed",
        "no such machine free",
    ),
    "nothing": ({}, "MachineBackOff", "went before it was ready"),
}


@pytest.mark.parametrize("case", EVENTS)
async def test_one_that_vanishes_is_explained_by_what_it_left_behind(scene: Scene, case: str) -> None:
    event, reason, words = EVENTS[case]
    await scene.rest()
    (claim,) = scene.claims()
    name = claim["metadata"]["name"]
    if event:
        about = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": name, "uid": claim["metadata"]["uid"]}
        made = {"metadata": {"name": f"{name}.1"}, "involvedObject": about, "type": "Warning", **event}
        scene.server.ask("POST", "/api/v1/namespaces/default/events", made)
    scene.server.ask("DELETE", f"{CLAIMS}/{name}")
    await scene.rest()
    told = scene.condition()
    assert told[:2] == ("False", reason)
    assert words in told[2]
    assert scene.claims() == []


async def test_ready_claims_stay_ready_in_name_while_they_are_deleted_and_are_not_used(scene: Scene) -> None:
    await scene.rest()
    (claim,) = scene.claims()
    scene.says(claim, **{step: ("True", step, "") for step in ("Launched", "Registered", "Initialized", "Ready")})
    await scene.rest()
    assert scene.condition()[0] == "True"
    scene.server.ask("DELETE", f"{CLAIMS}/{claim['metadata']['name']}")
    await scene.rest()
    assert scene.condition()[:2] == ("False", "MachineTerminating")
