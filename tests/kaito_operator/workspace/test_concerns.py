"""Which Workspaces have to be looked at when an object changes."""

from typing import Any

import pytest

from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.workspace.controller import concerns
from tests.support.builders import a_machine, a_node, a_pod, a_workspace, condition

READY = {"conditions": [condition("ResourceReady", "True")]}
CHAT = Key("team", "chat")


def mirror_of(*manifests: dict[str, Any]) -> Mirror:
    mirror = Mirror()
    for manifest in manifests:
        mirror.put(manifest)
    return mirror


@pytest.mark.parametrize(
    "manifest",
    [a_workspace(), a_machine("ws1"), a_pod(), a_node("n", held_by="chat")],
    ids=lambda manifest: manifest["kind"],
)
def test_what_bears_a_workspaces_labels_concerns_it_alone(manifest: dict[str, Any]) -> None:
    waiting = a_workspace("waiting", uid="other")
    assert set(concerns(manifest, mirror_of(waiting))) == {CHAT}


def test_a_free_node_concerns_those_that_have_too_few() -> None:
    mirror = mirror_of(a_workspace("waiting"), a_workspace("served", uid="other", status=READY))
    assert set(concerns(a_node("n"), mirror)) == {Key("team", "waiting")}


def test_a_workspace_with_a_status_that_nobody_can_read_is_in_want() -> None:
    assert set(concerns(a_node("n"), mirror_of(a_workspace(status={"conditions": "none"})))) == {CHAT}


def test_an_object_without_our_labels_concerns_nobody() -> None:
    pod = a_pod()
    del pod["metadata"]["labels"]
    assert list(concerns(pod, mirror_of(a_workspace()))) == []
