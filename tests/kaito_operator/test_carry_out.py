"""Carrying out a plan on a real API server: the order, the second look, and what is never done on a stale view."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kaito_operator.api.kinds import CONFIG_MAP, MACHINE, SERVICE, WORKSPACE
from kaito_operator.api.labels import TERMINATION_FINALIZER, WORKSPACE_FINALIZER
from kaito_operator.carry_out import CloudDoor, carry_out
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Forbidden, Invalid, NotLeading
from kaito_operator.mirror import Mirror
from kaito_operator.plan import (
    Apply,
    CreateInCloud,
    Delete,
    DeleteInCloud,
    Event,
    Finalizer,
    Holding,
    LookInCloud,
    Manifest,
    Patch,
    Plan,
    Ref,
    Release,
    Report,
    Selection,
    Subject,
)
from kaito_operator.second_look import Stale
from tests.support.control_plane import ApiServer, Json, Refused
from tests.support.machines import a_machine
from tests.support.tiny_controller import a_workspace, workspaces

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("crds")]
NOON = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
OTHERS = "example.com/somebody-elses"


@dataclass
class Cloud:
    """A cloud that remembers what it was asked for."""

    holds: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    async def create(self, step: CreateInCloud) -> None:
        self.asked.append(f"create {step.name}")

    async def delete(self, step: DeleteInCloud) -> None:
        self.asked.append(f"delete {step.name}")

    async def gone(self, name: str) -> bool:
        self.asked.append(f"gone {name}")
        return name not in self.holds

    async def there(self, name: str) -> bool:
        self.asked.append(f"there {name}")
        return name in self.holds

    async def look(self, step: LookInCloud) -> None:
        self.asked.append(f"look {step.name}")


@dataclass(frozen=True)
class Scene:
    """One Workspace in a namespace of its own, and what the operator knows."""

    server: ApiServer
    kube: Kube
    namespace: str
    mirror: Mirror
    cloud: Cloud

    @property
    def path(self) -> str:
        return f"{workspaces(self.namespace)}/w"

    def live(self) -> Json:
        found = self.server.get(self.path)
        assert found is not None
        return found

    def subject(self, **changed: Any) -> Subject:
        meta = self.live()["metadata"]
        ref = Ref(WORKSPACE.api_version, WORKSPACE.kind, "w", self.namespace)
        seen = {"uid": meta["uid"], "generation": meta["generation"], "deleting": "deletionTimestamp" in meta}
        return Subject(ref, **{**seen, **changed})

    async def carry_out(self, todo: Plan, *, kube: Kube | None = None, cloud: CloudDoor | None = None) -> None:
        await carry_out(todo, kube=kube or self.kube, mirror=self.mirror, cloud=cloud or self.cloud, clock=lambda: NOON)

    def config_map(self, **data: str) -> Manifest:
        meta = {"name": "c", "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}

    def found(self, plural: str = "configmaps", name: str = "c") -> Json | None:
        return self.server.get(f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")

    def finalizers(self) -> list[str]:
        return list(self.live()["metadata"].get("finalizers", []))


@pytest.fixture
def scene(api_server: ApiServer, kube: Kube, namespace: str) -> Scene:
    api_server.ask("POST", workspaces(namespace), a_workspace("w", namespace))
    return Scene(api_server, kube, namespace, Mirror(), Cloud())


def condition(status: str) -> Mapping[str, Any]:
    return {
        "conditions": [
            {
                "type": "Ready",
                "status": status,
                "reason": "Because",
                "message": "",
                "lastTransitionTime": "2026-11-23T12:00:00Z",
                "observedGeneration": 1,
            }
        ]
    }


async def test_everything_is_written_in_the_one_order(scene: Scene) -> None:
    subject, start = scene.subject(), scene.server.now()
    scene.server.ask(
        "POST",
        f"/api/v1/namespaces/{scene.namespace}/services",
        {"metadata": {"name": "old"}, "spec": {"ports": [{"port": 80}]}},
    )
    old = scene.found("services", "old") or {}
    await scene.carry_out(
        Plan(
            subject,
            finalizer=Finalizer.ADD,
            apply=(Apply(scene.config_map(a="1"), buys=True),),
            cloud=(CreateInCloud("pool", {}),),
            delete=(Delete(Ref("v1", "Service", "old", scene.namespace), old["metadata"]["uid"]),),
            report=(Report(subject.ref, subject.uid, condition("True")),),
            events=(Event(subject.ref, subject.uid, "Normal", "Because", "of this"),),
        )
    )
    assert start.writes() == [
        "patch workspaces",
        "patch configmaps",
        "delete services",
        "patch workspaces/status",
        "create events",
    ]
    assert scene.cloud.asked == ["create pool"]
    assert scene.finalizers() == [WORKSPACE_FINALIZER]
    assert scene.live()["status"] == condition("True")
    assert scene.mirror.get(WORKSPACE, "w", scene.namespace) == scene.live()
    assert scene.mirror.get(CONFIG_MAP, "c", scene.namespace) == scene.found()
    assert scene.mirror.get(SERVICE, "old", scene.namespace) is None


GENERATION = {"resource": {"preferredNodes": ["n"]}}


@pytest.mark.money
@pytest.mark.parametrize("what", ["buys", "cloud create", "cloud delete", "gives up", "finalizer"])
@pytest.mark.parametrize("changed", ["uid", "generation", "deletion"])
async def test_nothing_that_costs_is_done_for_a_parent_that_changed(scene: Scene, what: str, changed: str) -> None:
    scene.server.merge(scene.path, {"metadata": {"finalizers": [WORKSPACE_FINALIZER]}})
    seen = scene.subject(**({"uid": "another"} if changed == "uid" else {}))
    if changed == "generation":
        scene.server.merge(scene.path, GENERATION)
    if changed == "deletion":
        scene.server.ask("DELETE", scene.path)
    kept = scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", {"metadata": {"name": "kept"}})
    ref = Ref("v1", "ConfigMap", "kept", scene.namespace)
    steps: dict[str, Plan] = {
        "buys": Plan(seen, apply=(Apply(scene.config_map(), buys=True),)),
        "cloud create": Plan(seen, cloud=(CreateInCloud("pool", {}),)),
        "cloud delete": Plan(seen, cloud=(DeleteInCloud("pool", {}),)),
        "gives up": Plan(seen, delete=(Delete(ref, kept["metadata"]["uid"], gives_up=True),)),
        "finalizer": Plan(seen, finalizer=Finalizer.DROP),
    }
    start = scene.server.now()
    with pytest.raises(Stale, match="changed"):
        await scene.carry_out(steps[what])
    assert start.writes() == []
    assert scene.cloud.asked == []
    assert scene.mirror.get(WORKSPACE, "w", scene.namespace) == scene.live(), "the mirror knows better now"


@pytest.mark.money
@pytest.mark.parametrize("buying", [{"cloud": (CreateInCloud("pool", {}),)}, {"apply": ()}], ids=["cloud", "object"])
async def test_nothing_is_bought_before_our_finalizer_is_on_the_live_parent(
    scene: Scene, buying: dict[str, Any]
) -> None:
    wanted = buying if buying.get("cloud") else {"apply": (Apply(scene.config_map(), buys=True),)}
    with pytest.raises(Stale, match="does not bear our finalizer"):
        await scene.carry_out(Plan(scene.subject(), **wanted))
    assert (scene.found(), scene.cloud.asked) == (None, [])


@pytest.mark.money
@pytest.mark.money
async def test_nothing_is_bought_beside_what_the_plan_did_not_count(scene: Scene) -> None:
    """An earlier attempt under another name, of which no event has come yet."""
    mine = {"kaito.sh/workspace": "w"}
    earlier = {"metadata": {"name": "earlier", "labels": mine}}
    uid = scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", earlier)["metadata"]["uid"]
    await scene.carry_out(Plan(scene.subject(), finalizer=Finalizer.ADD))
    apply = (Apply(scene.config_map(), buys=True),)
    selection = Selection("v1", "ConfigMap", mine, {"metadata.namespace": scene.namespace})
    with pytest.raises(Stale, match="earlier is there already"):
        await scene.carry_out(Plan(scene.subject(), apply=apply, holding=Holding(selection, frozenset())))
    assert scene.found() is None
    assert scene.mirror.get(CONFIG_MAP, "earlier", scene.namespace) is not None, "the next plan counts it"
    await scene.carry_out(Plan(scene.subject(), apply=apply, holding=Holding(selection, frozenset({uid}))))
    assert scene.found() is not None


async def test_a_parent_that_is_gone_is_forgotten(scene: Scene) -> None:
    seen = scene.subject()
    scene.mirror.put(scene.live())
    scene.server.ask("DELETE", scene.path)
    with pytest.raises(Stale, match="is gone"):
        await scene.carry_out(Plan(seen, finalizer=Finalizer.ADD, cloud=(CreateInCloud("pool", {}),)))
    assert scene.mirror.get(WORKSPACE, "w", scene.namespace) is None
    assert scene.cloud.asked == []


async def test_an_update_of_an_object_that_is_gone_does_not_bring_it_back(scene: Scene) -> None:
    await scene.carry_out(Plan(scene.subject(), apply=(Apply(scene.config_map(a="1")),)))
    uid = (scene.found() or {})["metadata"]["uid"]
    scene.server.ask("DELETE", f"/api/v1/namespaces/{scene.namespace}/configmaps/c")
    with pytest.raises(Stale, match="not the object that was seen"):
        await scene.carry_out(Plan(scene.subject(), apply=(Apply(scene.config_map(a="2"), uid=uid),)))
    assert scene.found() is None
    assert scene.mirror.get(CONFIG_MAP, "c", scene.namespace) is None


async def test_an_update_does_not_touch_the_successor_of_the_name(scene: Scene) -> None:
    await scene.carry_out(Plan(scene.subject(), apply=(Apply(scene.config_map(a="1")),)))
    uid = (scene.found() or {})["metadata"]["uid"]
    scene.server.ask("DELETE", f"/api/v1/namespaces/{scene.namespace}/configmaps/c")
    scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", scene.config_map(a="theirs"))
    with pytest.raises(Stale, match="not the object that was seen"):
        await scene.carry_out(Plan(scene.subject(), apply=(Apply(scene.config_map(a="2"), uid=uid),)))
    assert (scene.found() or {})["data"] == {"a": "theirs"}
    assert scene.mirror.get(CONFIG_MAP, "c", scene.namespace) == scene.found()


async def test_a_foreign_object_of_the_name_is_not_taken_over(scene: Scene) -> None:
    scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", scene.config_map(a="theirs"))
    with pytest.raises(Stale, match="exists already"):
        await scene.carry_out(Plan(scene.subject(), apply=(Apply(scene.config_map(a="ours")),)))
    assert (scene.found() or {})["data"] == {"a": "theirs"}
    assert scene.mirror.get(CONFIG_MAP, "c", scene.namespace) == scene.found(), "the next plan can name it"


async def test_what_the_api_server_finds_invalid_is_an_error_and_not_stale(scene: Scene) -> None:
    await scene.carry_out(Plan(scene.subject(), apply=(Apply(scene.config_map(a="1")),)))
    wrong = {**scene.config_map(), "data": {"no such key!": "x"}}
    with pytest.raises(Invalid, match="no such key!"):
        await scene.carry_out(
            Plan(scene.subject(), apply=(Apply(wrong, uid=(scene.found() or {})["metadata"]["uid"]),))
        )


async def test_one_refused_apply_does_not_keep_the_others_from_their_try(scene: Scene) -> None:
    wrong = {**scene.config_map(), "data": {"no such key!": "x"}}
    right = {**scene.config_map(a="1"), "metadata": {"name": "right", "namespace": scene.namespace}}
    with pytest.raises(Invalid):
        await scene.carry_out(Plan(scene.subject(), apply=(Apply(wrong), Apply(right))))
    assert scene.found(name="right") is not None


class TestDelete:
    """Deletions are of one object, never of a name."""

    async def test_what_is_gone_already_is_done(self, scene: Scene) -> None:
        ref = Ref("v1", "ConfigMap", "c", scene.namespace)
        for gives_up in (False, True):
            await scene.carry_out(Plan(scene.subject(), delete=(Delete(ref, "any", gives_up=gives_up),)))

    @pytest.mark.parametrize("gives_up", [False, True])
    async def test_the_successor_of_the_name_lives(self, scene: Scene, gives_up: bool) -> None:
        scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", scene.config_map())
        ref = Ref("v1", "ConfigMap", "c", scene.namespace)
        with pytest.raises(Stale, match="not the object that was seen"):
            await scene.carry_out(Plan(scene.subject(), delete=(Delete(ref, "another", gives_up=gives_up),)))
        assert scene.found() is not None
        assert scene.mirror.get(CONFIG_MAP, "c", scene.namespace) == scene.found()

    async def test_what_others_hold_by_a_finalizer_is_known_as_deleting_and_not_asked_again(self, scene: Scene) -> None:
        machine = {
            "apiVersion": MACHINE.api_version,
            "kind": MACHINE.kind,
            "metadata": {"name": f"ws-{scene.namespace}", "finalizers": [OTHERS]},
            "spec": {"requirements": []},
        }
        made = scene.server.ask("POST", f"/apis/{MACHINE.api_version}/machines", machine)
        step = Delete(Ref.of(made), made["metadata"]["uid"], gives_up=True)
        start = scene.server.now()
        await scene.carry_out(Plan(scene.subject(), delete=(step,)))
        await scene.carry_out(Plan(scene.subject(), delete=(step,)))
        assert start.writes() == ["delete machines"]
        seen = scene.mirror.get(MACHINE, made["metadata"]["name"])
        assert seen is not None
        assert "deletionTimestamp" in seen["metadata"]


class TestFinalizer:
    """Ours goes on first and off last; other people's stay."""

    async def test_it_is_added_beside_those_of_others(self, scene: Scene) -> None:
        scene.server.merge(scene.path, {"metadata": {"finalizers": [OTHERS]}})
        await scene.carry_out(Plan(scene.subject(), finalizer=Finalizer.ADD))
        assert scene.finalizers() == [OTHERS, WORKSPACE_FINALIZER]

    async def test_it_is_added_once(self, scene: Scene) -> None:
        await scene.carry_out(Plan(scene.subject(), finalizer=Finalizer.ADD))
        start = scene.server.now()
        await scene.carry_out(Plan(scene.subject(), finalizer=Finalizer.ADD))
        assert start.writes() == []

    async def test_it_is_dropped_from_among_those_of_others(self, scene: Scene) -> None:
        scene.server.merge(scene.path, {"metadata": {"finalizers": [OTHERS, WORKSPACE_FINALIZER]}})
        scene.server.ask("DELETE", scene.path)
        await scene.carry_out(Plan(scene.subject(), finalizer=Finalizer.DROP, gone_in_cloud=("pool",)))
        assert scene.finalizers() == [OTHERS]
        assert scene.cloud.asked == ["gone pool"]
        assert scene.mirror.get(WORKSPACE, "w", scene.namespace) == scene.live()

    async def test_the_last_one_takes_the_object_out_of_the_mirror(self, scene: Scene) -> None:
        scene.server.merge(scene.path, {"metadata": {"finalizers": [WORKSPACE_FINALIZER]}})
        scene.server.ask("DELETE", scene.path)
        scene.mirror.put(scene.live())
        await scene.carry_out(Plan(scene.subject(), finalizer=Finalizer.DROP))
        assert scene.server.get(scene.path) is None
        assert scene.mirror.get(WORKSPACE, "w", scene.namespace) is None

    @pytest.mark.money
    async def test_it_stays_while_the_cloud_holds_anything(self, scene: Scene) -> None:
        scene.server.merge(scene.path, {"metadata": {"finalizers": [WORKSPACE_FINALIZER]}})
        scene.cloud.holds.add("pool")
        with pytest.raises(Stale, match="pool is still in the cloud"):
            await scene.carry_out(
                Plan(scene.subject(), finalizer=Finalizer.DROP, gone_in_cloud=("other", "pool", "more"))
            )
        assert scene.cloud.asked == ["gone other", "gone pool"]
        assert scene.finalizers() == [WORKSPACE_FINALIZER]

    @pytest.mark.money
    async def test_it_stays_while_the_cluster_holds_anything(self, scene: Scene) -> None:
        scene.server.merge(scene.path, {"metadata": {"finalizers": [WORKSPACE_FINALIZER]}})
        unseen = {**scene.config_map(), "metadata": {"name": "c", "labels": {"of": scene.namespace}}}
        scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", unseen)
        todo = Plan(
            scene.subject(),
            finalizer=Finalizer.DROP,
            gone_in_cluster=(
                Selection("karpenter.sh/v1", "NodeClaim", {}),  # not installed, so nothing of it is left
                Selection("v1", "ConfigMap", {"of": scene.namespace}),
            ),
        )
        with pytest.raises(Stale, match="1 configmaps are still there"):
            await scene.carry_out(todo)
        assert scene.finalizers() == [WORKSPACE_FINALIZER]
        assert scene.mirror.get(CONFIG_MAP, "c", scene.namespace) == scene.found()


class TestReport:
    """Status is written where it differs; events follow it."""

    async def test_a_status_that_is_there_already_is_not_written(self, scene: Scene) -> None:
        subject = scene.subject()
        todo = Plan(subject, report=(Report(subject.ref, subject.uid, condition("True")),))
        await scene.carry_out(todo)
        start = scene.server.now()
        await scene.carry_out(todo)
        assert start.requests() == []

    async def test_a_status_takes_away_what_we_no_longer_say(self, scene: Scene) -> None:
        subject = scene.subject()
        said = {**condition("True"), "endpoint": "http://w"}
        await scene.carry_out(Plan(subject, report=(Report(subject.ref, subject.uid, said),)))
        await scene.carry_out(Plan(subject, report=(Report(subject.ref, subject.uid, condition("False")),)))
        assert scene.live()["status"] == condition("False")

    async def test_a_status_is_not_written_to_a_successor(self, scene: Scene) -> None:
        subject = scene.subject(uid="another")
        event = Event(subject.ref, subject.uid, "Normal", "Because", "of this")
        with pytest.raises(Stale, match="not the object that was seen"):
            await scene.carry_out(
                Plan(subject, report=(Report(subject.ref, subject.uid, condition("True")),), events=(event,))
            )
        assert "status" not in scene.live()
        assert events(scene) == []

    async def test_a_status_is_not_written_to_a_successor_that_nobody_saw(self, scene: Scene) -> None:
        subject = scene.subject()
        scene.mirror.put(scene.live())
        scene.server.ask("DELETE", scene.path)
        scene.server.ask("POST", workspaces(scene.namespace), a_workspace("w", scene.namespace))
        with pytest.raises(Stale, match="changed under its status"):
            await scene.carry_out(Plan(subject, report=(Report(subject.ref, subject.uid, condition("True")),)))
        assert "status" not in scene.live()
        assert scene.mirror.get(WORKSPACE, "w", scene.namespace) == scene.live()

    async def test_a_status_of_an_older_generation_is_not_written(self, scene: Scene) -> None:
        subject = scene.subject()
        scene.mirror.put(scene.live())
        scene.server.merge(scene.path, GENERATION)
        with pytest.raises(Stale, match="changed under its status"):
            await scene.carry_out(Plan(subject, report=(Report(subject.ref, subject.uid, condition("True")),)))
        assert "status" not in scene.live()

    async def test_a_status_of_what_is_gone_makes_nothing(self, scene: Scene) -> None:
        subject = scene.subject()
        scene.server.ask("DELETE", scene.path)
        await scene.carry_out(Plan(subject, report=(Report(subject.ref, subject.uid, condition("True")),)))
        assert scene.server.get(scene.path) is None

    async def test_an_event_is_told_once_however_often_the_pass_is_repeated(self, scene: Scene) -> None:
        subject = scene.subject()
        told = Event(subject.ref, subject.uid, "Warning", "NoQuota", "ask for more")
        for _ in range(3):
            await scene.carry_out(Plan(subject, events=(told,)))
        await scene.carry_out(Plan(subject, events=(Event(subject.ref, subject.uid, "Normal", "Bought", "one"),)))
        assert sorted((e["type"], e["reason"], e["message"]) for e in events(scene)) == [
            ("Normal", "Bought", "one"),
            ("Warning", "NoQuota", "ask for more"),
        ]
        assert {(e["involvedObject"]["name"], e["involvedObject"]["uid"]) for e in events(scene)} == {
            ("w", subject.uid)
        }

    async def test_an_event_that_is_refused_stands_in_nobodys_way(self, scene: Scene) -> None:
        scene.server.merge(scene.path, {"metadata": {"finalizers": [WORKSPACE_FINALIZER]}})
        scene.server.ask("DELETE", scene.path)
        scene.server.ask("DELETE", f"/api/v1/namespaces/{scene.namespace}")
        subject = scene.subject()
        with pytest.raises(Refused, match="is being terminated"):
            scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", scene.config_map())
        told = Event(subject.ref, subject.uid, "Normal", "Leaving", "the namespace ends")
        await scene.carry_out(Plan(subject, events=(told,), finalizer=Finalizer.DROP))
        assert scene.server.get(scene.path) is None


def events(scene: Scene) -> list[Json]:
    found: list[Json] = scene.server.ask("GET", f"/api/v1/namespaces/{scene.namespace}/events")["items"]
    return found


@pytest.mark.money
async def test_a_process_that_does_not_lead_asks_the_cloud_for_nothing(scene: Scene) -> None:
    scene.server.merge(scene.path, {"metadata": {"finalizers": [WORKSPACE_FINALIZER]}})
    standby = await Kube.connect(str(scene.server.kubeconfig()), may_write=lambda: False)
    with pytest.raises(NotLeading):
        await scene.carry_out(Plan(scene.subject(), cloud=(CreateInCloud("pool", {}),)), kube=standby)
    await standby.close()
    assert scene.cloud.asked == []


@pytest.mark.security
async def test_a_user_without_rights_is_told_so(scene: Scene) -> None:
    stranger = await Kube.connect(str(scene.server.kubeconfig("stranger")))
    with pytest.raises(Forbidden, match="stranger"):
        await scene.carry_out(Plan(scene.subject(), apply=(Apply(scene.config_map(), uid="u"),)), kube=stranger)
    await stranger.close()


@pytest.mark.money
async def test_a_node_is_let_go_when_the_cloud_says_that_nothing_is_left_and_not_before(scene: Scene) -> None:
    name = f"n-{scene.namespace}"
    path = f"/api/v1/nodes/{name}"
    finalizers = [TERMINATION_FINALIZER, OTHERS]
    made = scene.server.ask("POST", "/api/v1/nodes", {"metadata": {"name": name, "finalizers": finalizers}})
    release = (Release(Ref("v1", "Node", name), made["metadata"]["uid"]),)
    todo = Plan(scene.subject(), release=release, gone_in_cloud=("ws1",))
    with pytest.raises(Stale, match="not the object that was seen to go"):
        await scene.carry_out(todo)  # nobody deletes it

    scene.server.ask("DELETE", path)
    scene.cloud.holds.add("ws1")
    with pytest.raises(Stale, match="still in the cloud"):
        await scene.carry_out(todo)
    assert scene.server.ask("GET", path)["metadata"]["finalizers"] == finalizers

    scene.cloud.holds.clear()
    with pytest.raises(Stale, match="not the object that was seen to go"):
        await scene.carry_out(replace(todo, release=(replace(release[0], uid="another"),)))
    assert scene.server.ask("GET", path)["metadata"]["finalizers"] == finalizers
    await scene.carry_out(todo)
    assert scene.server.ask("GET", path)["metadata"]["finalizers"] == [OTHERS]
    scene.server.merge(path, {"metadata": {"finalizers": []}})
    await scene.carry_out(todo)  # it is gone, and that is well


@pytest.mark.money
async def test_what_the_cloud_must_still_have_is_asked_for_before_anything_is_deleted(scene: Scene) -> None:
    machine = a_machine(name=f"m{scene.namespace.rpartition('-')[2]}")
    meta = {"name": machine["metadata"]["name"]}
    live = scene.server.ask("POST", "/apis/karpenter.sh/v1alpha5/machines", {**machine, "metadata": meta})
    delete = Delete(Ref.of(live), live["metadata"]["uid"], gives_up=True)
    todo = Plan(scene.subject(), there_in_cloud=("ws1",), delete=(delete,))
    path = f"/apis/karpenter.sh/v1alpha5/machines/{meta['name']}"
    with pytest.raises(Stale, match="not in the cloud as it was"):
        await scene.carry_out(todo)
    assert scene.server.get(path) is not None
    scene.cloud.holds.add("ws1")
    await scene.carry_out(todo)
    assert scene.server.get(path) is None


async def test_a_patch_is_of_the_version_that_was_seen_or_of_none(scene: Scene) -> None:
    scene.server.ask("POST", f"/api/v1/namespaces/{scene.namespace}/configmaps", scene.config_map(a="1"))
    live = scene.found()
    assert live is not None
    change = {"op": "add", "path": "/data/b", "value": "2"}
    patch = Patch(Ref("v1", "ConfigMap", "c", scene.namespace), live["metadata"]["resourceVersion"], (change,))
    await scene.carry_out(Plan(scene.subject(), patch=(patch,)))
    written = scene.found()
    assert written is not None
    assert (written["data"], scene.mirror.get(CONFIG_MAP, "c", scene.namespace)) == ({"a": "1", "b": "2"}, written)
    again = replace(patch, operations=({**change, "value": "3"},))
    with pytest.raises(Stale, match="not as it was seen"):
        await scene.carry_out(Plan(scene.subject(), patch=(again,)))
    assert scene.found() == written
