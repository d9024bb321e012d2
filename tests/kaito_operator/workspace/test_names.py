"""Names that others may have: which are looked at and until when, and what a plan makes of them."""

from typing import Any

import pytest

from kaito_operator.api.workspace import parse_workspace
from kaito_operator.mirror import Mirror
from kaito_operator.workspace import names
from kaito_operator.workspace.machines import machine_name
from tests.support.builders import (
    EARLIER,
    NOON,
    UID,
    Manifest,
    a_job,
    a_machine,
    a_workspace,
    stored,
)
from tests.support.planning import applied, conditions, planned

pytestmark = pytest.mark.money
FIRST = machine_name(UID, slot=0, attempt=1)
TUNING = {
    "preset": {"name": "smollm2-135m-instruct"},
    "method": "qlora",
    "input": {"urls": ["https://example.com/rows.jsonl"]},
    "output": {"image": "registry.example.com/team/style:1", "imagePushSecret": "push"},
}
ALONE, TRAINED_ALONE = a_workspace(), a_workspace(tuning={**TUNING, "serve": False})
SERVING = [("Service", "chat"), ("Deployment", "chat")]
CLAIM = ("PersistentVolumeClaim", "chat-tuning")


def theirs(kind: str, name: str, *, goes: bool = False) -> Manifest:
    going = {"deletionTimestamp": EARLIER} if goes else {}
    group = {"Service": "v1", "PersistentVolumeClaim": "v1"}.get(kind, "apps/v1")
    return stored({"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": "team", **going}})


def looked_at(workspace: Manifest, *others: Manifest) -> list[tuple[str, str]]:
    mirror = Mirror()
    for manifest in others:
        mirror.put(manifest)
    return [(ref.kind, ref.name) for ref in names.reads(mirror, parse_workspace(workspace))]


@pytest.mark.parametrize(
    ("workspace", "wanted"),
    [
        (ALONE, SERVING),
        (a_workspace(count=2), [*SERVING, ("Service", "chat-headless"), ("StatefulSet", "chat")]),
        (a_workspace(tuning=TUNING), [CLAIM, *SERVING]),
        (TRAINED_ALONE, [CLAIM]),
    ],
)
def test_what_a_workspace_will_make_is_looked_at_first(workspace: Manifest, wanted: list[tuple[str, str]]) -> None:
    assert looked_at(workspace) == wanted


ASKED = {"machines": [{"slot": 0, "attempt": 1, "name": FIRST}]}


@pytest.mark.parametrize(
    ("workspace", "others"),
    [
        (a_workspace(instance_type=""), ()),
        (a_workspace(deleted_at=NOON), ()),
        (a_workspace(resource={"count": "none"}), ()),
        (a_workspace(status=ASKED), ()),
        (ALONE, (a_machine(FIRST),)),
        (TRAINED_ALONE, (a_job("chat-1"),)),
    ],
)
def test_nobody_looks_where_nothing_is_to_be_bought_or_it_has_been(workspace: Manifest, others: Any) -> None:
    assert looked_at(workspace, *others) == []


@pytest.mark.parametrize(
    ("workspace", "kind", "name"),
    [
        (ALONE, "Service", "chat"),
        (ALONE, "Deployment", "chat"),
        (a_workspace(tuning=TUNING), "Service", "chat"),
        (TRAINED_ALONE, "PersistentVolumeClaim", "chat-tuning"),
    ],
)
def test_for_a_name_that_others_have_nothing_is_bought(workspace: Manifest, kind: str, name: str) -> None:
    todo = planned(workspace, theirs(kind, name))
    told = f"{kind} {name} is there already and does not belong to this Workspace. What to do: rename one of them"
    assert conditions(todo)["WorkspaceReady"] == ("False", "NameTaken", told)
    assert (todo.apply, todo.delete, todo.look_again) == ((), (), 60.0)


@pytest.mark.parametrize(
    ("workspace", "other"),
    [
        (ALONE, theirs("StatefulSet", "chat")),
        (ALONE, theirs("Service", "another")),
        (ALONE, theirs("Deployment", "chat", goes=True)),
        (TRAINED_ALONE, theirs("Service", "chat")),
    ],
)
def test_what_is_in_nobodys_way_or_on_its_way_out_keeps_nobody_from_buying(
    workspace: Manifest, other: Manifest
) -> None:
    assert len(applied(planned(workspace, other), "Machine")) == 1


def test_a_machine_that_is_there_already_is_kept_for_whoever_renames() -> None:
    todo = planned(ALONE, a_machine(FIRST), theirs("Service", "chat"))
    assert (todo.delete, conditions(todo)["InferenceReady"][:2]) == ((), ("False", "NameTaken"))


def test_on_nodes_of_ones_own_a_taken_name_stops_the_model_alone() -> None:
    told = conditions(planned(a_workspace(instance_type=""), theirs("Service", "chat")))
    assert (told["MachineReady"][0], told["InferenceReady"][:2]) == ("True", ("False", "NameTaken"))
