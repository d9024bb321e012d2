"""What was asked for before: kept when it is edited, ten at most, and one patch away."""

from collections.abc import Mapping
from typing import Any

from kaito_operator.plan import Plan
from kaito_operator.workspace.history import KEPT
from tests.kaito_operator.workspace.test_model_files import BAKED, on_its_nodes
from tests.support.builders import Manifest, a_workspace, rolled_out, stored
from tests.support.planning import applied, deleted


def serving(*adapters: str) -> Manifest:
    """A Workspace with adapters of these names."""
    sources = [{"source": {"name": name, "image": f"r.io/team/{name}:1"}} for name in adapters]
    return a_workspace(inference={"preset": {"name": "smollm2-135m-instruct"}, "adapters": sources})


def after(todo: Plan, there: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """The namespace once a plan is carried out, by kind and name."""
    now = dict(there)
    for step in todo.apply:
        manifest = step.manifest
        if manifest["metadata"].get("namespace"):
            name = f"{manifest['kind']} team/{manifest['metadata']['name']}"
            now[name] = rolled_out(manifest) if manifest["kind"] == "Deployment" else stored(manifest)
    return {name: each for name, each in now.items() if name not in deleted(todo)}


def settled(workspace: Manifest, there: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """The namespace when nothing is left to write."""
    for _ in range(6):
        todo = on_its_nodes(workspace, BAKED, *there.values())
        if not todo.apply and not todo.delete:
            return dict(there)
        there = after(todo, there)
    raise AssertionError(f"no rest: {todo.summary()}")


def revisions(there: Mapping[str, Manifest]) -> list[tuple[int, list[str]]]:
    """Number and names of adapters of each, in the order of their numbers."""
    found = [each for each in there.values() if each["kind"] == "ControllerRevision"]
    told = [(each["revision"], each["data"]["inference"]["adapters"]) for each in found]
    return sorted((number, [adapter["source"]["name"] for adapter in adapters]) for number, adapters in told)


def test_a_workspace_that_was_never_edited_has_no_history() -> None:
    assert revisions(settled(serving("one"), {})) == []


def test_an_edit_is_kept_with_what_was_there_before_it() -> None:
    there = settled(serving("one"), {})
    todo = on_its_nodes(serving("two"), BAKED, *there.values())
    assert [each["revision"] for each in applied(todo, "ControllerRevision")] == [1, 2]
    assert todo.apply[-1].manifest["kind"] == "Deployment"
    then = on_its_nodes(serving("two"), BAKED, *after(todo, there).values())
    assert (then.apply, then.delete) == ((), ())


def test_an_undo_is_the_newest_revision_and_makes_no_second_one() -> None:
    there: dict[str, Manifest] = {}
    for adapters in (("one",), ("two",), ("one",)):
        there = settled(serving(*adapters), there)
    assert revisions(there) == [(2, ["two"]), (3, ["one"])]


def test_ten_are_kept_and_the_oldest_go() -> None:
    there: dict[str, Manifest] = {}
    for number in range(14):
        there = settled(serving(f"a{number}"), there)
    found = revisions(there)
    assert len(found) == KEPT
    assert [names for _, names in found] == [[f"a{number}"] for number in range(4, 14)]


def test_an_edit_that_was_kept_by_half_is_kept_whole_once_whatever_was_taken_away_meanwhile() -> None:
    """Killed after the first of two revisions; then somebody deletes the Deployment (found by the properties)."""
    there = settled(serving("one"), {})
    first = applied(on_its_nodes(serving("two"), BAKED, *there.values()), "ControllerRevision")[0]
    halved = [stored(first), *(each for each in there.values() if each["kind"] != "Deployment")]
    todo = on_its_nodes(serving("two"), BAKED, *halved)
    assert [each["revision"] for each in applied(todo, "ControllerRevision")] == [2]
    kept = {f"{each['kind']} team/{each['metadata']['name']}": each for each in halved}
    assert revisions(settled(serving("two"), kept)) == [(1, ["one"]), (2, ["two"])]


def test_a_revision_is_a_patch_that_says_again_what_was_asked_for() -> None:
    there = settled(serving("two"), settled(serving("one"), {}))
    (first,) = [e for e in there.values() if e["kind"] == "ControllerRevision" and e["revision"] == 1]
    edited: dict[str, Any] = serving("two")
    merged = {**edited, "inference": {**edited["inference"], **first["data"]["inference"]}}
    assert on_its_nodes(merged, BAKED).apply[-1].manifest == on_its_nodes(serving("one"), BAKED).apply[-1].manifest


def test_a_note_that_makes_no_sense_is_none() -> None:
    there = settled(serving("one"), {})
    deployment = there["Deployment team/chat"]
    for text in ("", "{", "[]", '{"status": {}}'):
        notes = {**deployment["metadata"]["annotations"], "kaito.sh/spec": text}
        scrawled = {**deployment, "metadata": {**deployment["metadata"], "annotations": notes}}
        todo = on_its_nodes(serving("two"), BAKED, *{**there, "Deployment team/chat": scrawled}.values())
        assert applied(todo, "ControllerRevision") == []
        assert len(applied(todo, "Deployment")) == 1


def test_a_tuning_that_is_edited_keeps_what_it_learned_from_before() -> None:
    def tuning(url: str) -> Manifest:
        return a_workspace(
            tuning={
                "preset": {"name": "smollm2-135m-instruct"},
                "method": "lora",
                "input": {"urls": [url]},
                "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
            }
        )

    first = on_its_nodes(tuning("https://example.com/1"), BAKED)
    there, status = after(first, {}), first.report[0].status
    edited = {**tuning("https://example.com/2"), "status": status}
    todo = on_its_nodes(edited, BAKED, *there.values())
    kept = [each["data"]["tuning"]["input"]["urls"] for each in applied(todo, "ControllerRevision")]
    assert kept == [["https://example.com/1"], ["https://example.com/2"]]
    assert len(applied(todo, "Job")) == 1
    then = {**edited, "status": todo.report[0].status}
    assert applied(on_its_nodes(then, BAKED, *after(todo, there).values()), "ControllerRevision") == []
