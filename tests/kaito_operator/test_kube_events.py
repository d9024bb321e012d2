"""Events tell each thing once, and what happens again is told again."""

import re
from datetime import UTC, datetime, timedelta

from kaito_operator.kube.events import as_manifest
from kaito_operator.plan import Event, Manifest, Ref

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
ABOUT = Ref("kaito.sh/v1alpha1", "Workspace", "w", "ns")


def told(
    *, about: Ref = ABOUT, uid: str = "u", reason: str = "Ready", message: str = "yes", now: datetime = NOON
) -> Manifest:
    return as_manifest(Event(about, uid, "Normal", reason, message), component="kaito-operator", now=now)


def name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def test_an_event_is_about_one_object() -> None:
    manifest = told()
    assert {key: value for key, value in manifest.items() if key != "metadata"} == {
        "apiVersion": "v1",
        "kind": "Event",
        "involvedObject": {
            "apiVersion": "kaito.sh/v1alpha1",
            "kind": "Workspace",
            "name": "w",
            "namespace": "ns",
            "uid": "u",
        },
        "type": "Normal",
        "reason": "Ready",
        "message": "yes",
        "source": {"component": "kaito-operator"},
        "reportingComponent": "kaito-operator",
        "firstTimestamp": "2026-11-23T12:00:00Z",
        "lastTimestamp": "2026-11-23T12:00:00Z",
        "count": 1,
    }
    assert manifest["metadata"]["namespace"] == "ns"


def test_the_same_told_in_the_same_minute_has_the_same_name_and_anything_else_another() -> None:
    assert name(told()) == name(told(now=NOON + timedelta(seconds=59)))
    others = [
        told(uid="v"),
        told(reason="Unready"),
        told(message="no"),
        told(now=NOON + timedelta(minutes=1)),
    ]
    assert len({name(told()), *map(name, others)}) == 5


def test_what_is_in_no_namespace_is_told_in_default() -> None:
    manifest = told(about=Ref("karpenter.sh/v1alpha5", "Machine", "ws123456789"))
    assert manifest["metadata"]["namespace"] == "default"
    assert "namespace" not in manifest["involvedObject"]


def test_the_longest_name_and_message_make_an_event_that_kubernetes_takes() -> None:
    manifest = told(about=Ref("v1", "Node", "n" * 199 + "." + "m" * 53), message="x" * 5000)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name(manifest))
    assert ".." not in name(manifest)
    assert len(name(manifest)) <= 253
    assert len(manifest["message"]) == 1024
