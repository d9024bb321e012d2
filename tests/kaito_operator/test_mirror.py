"""The mirror: news is taken in, old news is not, and what a lost event left behind is mended."""

from typing import Any

from kaito_operator.api.kinds import MACHINE, POD
from kaito_operator.mirror import REMEMBERED, Mirror
from kaito_operator.plan import Key


def a_pod(name: str, version: int, *, uid: str = "u1", workspace: str = "") -> dict[str, Any]:
    labels = {"kaito.sh/workspace": workspace} if workspace else {}
    meta = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta}


def a_machine(name: str, version: int, workspace: str) -> dict[str, Any]:
    labels = {"kaito.sh/workspace": workspace, "kaito.sh/workspacenamespace": "ns"}
    meta = {"name": name, "uid": name, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine", "metadata": meta}


def test_an_old_event_never_overwrites_the_answer_to_our_own_write() -> None:
    mirror = Mirror()
    assert mirror.put(a_pod("a", 105))
    assert not mirror.put(a_pod("a", 100))
    assert not mirror.put(a_pod("a", 105))
    assert mirror.get(POD, "a", "ns") == a_pod("a", 105)
    assert mirror.put(a_pod("a", 1000)), "versions are numbers, not text"


def test_a_late_deletion_event_does_not_remove_the_successor() -> None:
    mirror = Mirror()
    mirror.put(a_pod("a", 200, uid="second"))
    assert not mirror.remove(a_pod("a", 150, uid="first"))
    assert mirror.get(POD, "a", "ns") == a_pod("a", 200, uid="second")
    assert mirror.remove(a_pod("a", 201, uid="second"))
    assert mirror.get(POD, "a", "ns") is None


def test_a_list_removes_ghosts_and_keeps_what_is_newer_than_itself() -> None:
    mirror = Mirror()
    ghost, kept, newer = a_pod("ghost", 10), a_pod("kept", 11), a_pod("newer", 60)
    for seen in (ghost, kept, newer):
        mirror.put(seen)
    arrived = a_pod("arrived", 40)
    assert mirror.replace(POD, [kept, arrived], resource_version="50") == [ghost, arrived]
    assert mirror.all(POD) == [arrived, kept, newer]


def test_objects_of_nobody_are_found_until_somebody_labels_them() -> None:
    mirror = Mirror()
    for seen in (a_pod("b", 1), a_pod("a", 2), a_pod("c", 3, workspace="w")):
        mirror.put(seen)
    assert [p["metadata"]["name"] for p in mirror.of_nobody(POD)] == ["a", "b"]
    mirror.put(a_pod("a", 4, workspace="w"))
    mirror.put(a_pod("c", 5))
    mirror.remove(a_pod("b", 6))
    assert [p["metadata"]["name"] for p in mirror.of_nobody(POD)] == ["c"]


def test_objects_are_found_by_the_workspace_on_their_labels() -> None:
    mirror = Mirror()
    for seen in (a_pod("b", 1, workspace="w"), a_pod("a", 2, workspace="w"), a_pod("c", 3), a_machine("m", 4, "w")):
        mirror.put(seen)
    key = Key("ns", "w")
    assert [p["metadata"]["name"] for p in mirror.of_workspace(POD, key)] == ["a", "b"]
    assert [m["metadata"]["name"] for m in mirror.of_workspace(MACHINE, key)] == ["m"]
    assert mirror.of_workspace(POD, Key("other", "w")) == []


def test_an_object_that_changes_its_label_changes_its_workspace() -> None:
    mirror = Mirror()
    mirror.put(a_pod("a", 1, workspace="before"))
    mirror.put(a_pod("a", 2, workspace="after"))
    assert mirror.of_workspace(POD, Key("ns", "before")) == []
    assert mirror.of_workspace(POD, Key("ns", "after")) == [a_pod("a", 2, workspace="after")]


def test_a_late_event_does_not_bring_back_what_is_gone() -> None:
    mirror = Mirror()
    mirror.put(a_pod("a", 100))
    mirror.remove(a_pod("a", 110))
    assert not mirror.put(a_pod("a", 105))
    assert mirror.all(POD) == []
    assert mirror.put(a_pod("a", 106, uid="successor")), "the name is free for another object"


def test_an_object_that_lost_its_label_is_gone_for_the_watch_and_still_taken_in_when_looked_at() -> None:
    """A watch by labels says DELETED when they no longer match, with the version of that change."""
    mirror = Mirror()
    mirror.put(a_pod("a", 100, workspace="w"))
    mirror.remove(a_pod("a", 110))
    assert mirror.put(a_pod("a", 110))
    assert mirror.get(POD, "a", "ns") == a_pod("a", 110)


def test_only_so_many_removals_are_remembered() -> None:
    mirror = Mirror()
    for number in range(REMEMBERED + 1):
        mirror.put(a_pod("a", 100, uid=f"u{number}"))
        mirror.remove(a_pod("a", 110, uid=f"u{number}"))
    assert not mirror.put(a_pod("a", 100, uid="u1"))
    assert mirror.put(a_pod("a", 100, uid="u0"))
