"""A model that is not in the catalogue but on the Hub: asked for, sized, served from the commit that was looked up."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kaito_operator.api.reasons import Reason
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Plan
from kaito_operator.workspace.hub_models import Answer, Trouble, told
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.observe import observe
from kaito_operator.workspace.plan import plan
from presets.hub.row import as_row, of_row
from tests.kaito_operator.workspace.test_model_files import WITH_RUNTIME
from tests.support.builders import NOON, UID, Manifest, a_node, a_ready_machine, a_workspace
from tests.support.planning import CATALOG, applied, conditions
from tests.support.pod_security import violations

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROW = {
    **as_row(CATALOG.model("qwen2.5-7b-instruct")),
    **{"name": "org/own", "hub": "org/own", "aliases": [], "revision": COMMIT, "tuning": False},
}
FOUND = of_row(ROW)
TUNABLE = of_row({**ROW, "tuning": True})
A100 = "Standard_NC24ads_A100_v4"


def planned(workspace: Mapping[str, Any], *others: Mapping[str, Any], answer: Answer | None = None) -> Plan:
    """What is planned once the Hub has answered so."""
    mirror, key = Mirror(), Key("team", "chat")
    for manifest in (workspace, *others):
        mirror.put(manifest)
    seen = observe(mirror, key, answer_of=lambda _key, _name: answer)
    assert seen is not None
    return plan(seen, NOON, catalog=CATALOG, installation=WITH_RUNTIME)


def asking(instance_type: str = A100, **more: Any) -> Manifest:
    return a_workspace(preset="org/own", instance_type=instance_type, **more)


def test_before_the_hub_has_answered_nothing_is_bought_and_nothing_is_wrong() -> None:
    todo = planned(asking())
    assert todo.apply == ()
    assert conditions(todo)["WorkspaceReady"] == (
        "False",
        "workspacePending",
        "the Hugging Face Hub is asked what org/own takes",
    )


@pytest.mark.badinput
@pytest.mark.parametrize(
    "reason", [Reason.HUB_GATED, Reason.HUB_MODEL_MISSING, Reason.HUB_MODEL_UNSUPPORTED, Reason.HUB_UNREACHABLE]
)
def test_what_the_hub_refuses_is_the_reason_and_buys_nothing(reason: Reason) -> None:
    todo = planned(asking(), answer=Trouble(reason, "the Hub says no"))
    assert todo.apply == ()
    status, found, message = conditions(todo)["Ready"]
    assert (status, found) == ("False", reason.value)
    assert message.startswith("the Hub says no. What to do: ")


def test_what_was_looked_up_is_sized_bought_for_and_kept_in_the_status() -> None:
    todo = planned(asking(), answer=FOUND)
    assert len(applied(todo, "Machine")) == 1
    status = todo.report[0].status
    assert status["model"] == {"id": "org/own", "revision": COMMIT, "row": as_row(FOUND)}
    assert status["estimate"]["memoryGiB"] == FOUND.total_memory_gib


def test_what_the_status_has_is_not_asked_for_again_and_its_commit_is_served() -> None:
    name = machine_name(UID, slot=0, attempt=1)
    nodes = (
        a_ready_machine(name, node="n", instance_type=A100),
        a_node("n", instance_type=A100, gpus=1, held_by="chat", pool=name),
    )
    todo = planned(asking(status={"model": told(FOUND)}), *nodes, answer=None)
    (deployment,) = applied(todo, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (model,) = spec["initContainers"]
    assert model["args"] == ["--id=org/own", "--port=5000", f"--revision={COMMIT}", "--to=/mnt/model"]
    assert "--served_model_name=org/own" in spec["containers"][0]["args"]


def tuning(instance_type: str = A100, **more: Any) -> Manifest:
    spec = {
        "preset": {"name": "org/own", "presetOptions": {"modelAccessSecret": "hub-token"}},
        "method": "qlora",
        "input": {"urls": ["https://example.com/rows.jsonl"]},
        "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
    }
    return a_workspace(tuning=spec, instance_type=instance_type, **more)


def test_what_can_be_tuned_of_the_hub_is_trained_from_the_commit_that_was_looked_up(
    golden: Callable[[str, Any], None],
) -> None:
    name = machine_name(UID, slot=0, attempt=1)
    nodes = (
        a_ready_machine(name, node="n", instance_type=A100),
        a_node("n", instance_type=A100, gpus=1, held_by="chat", pool=name),
    )
    todo = planned(tuning(), *nodes, answer=TUNABLE)
    golden("workspace/tuning-of-the-hub", [*applied(todo, "ConfigMap"), *applied(todo, "Job")])
    (job,) = applied(todo, "Job")
    assert violations(job["spec"]["template"]["spec"]) == []
    assert todo.report[0].status["estimate"]["memoryGiB"] > 0


@pytest.mark.badinput
def test_a_model_of_the_hub_that_cannot_be_tuned_is_told_and_nothing_is_bought() -> None:
    todo = planned(tuning(), answer=FOUND)
    _, reason, message = conditions(todo)["Ready"]
    assert (reason, todo.apply) == ("UnknownPreset", ())
    assert message.startswith("tuning.preset.name: org/own cannot be tuned; ")


def test_a_row_that_an_older_version_wrote_is_asked_for_anew() -> None:
    stale = {"id": "org/own", "revision": COMMIT, "row": {"name": "org/own", "who": "knows"}}
    assert planned(asking(status={"model": stale})).apply == ()
    assert applied(planned(asking(status={"model": stale}), answer=FOUND), "Machine") != []


@pytest.mark.badinput
def test_a_machine_too_small_for_it_is_told_with_those_that_do() -> None:
    todo = planned(asking("Standard_NV6ads_A10_v5"), answer=FOUND)
    _, reason, message = conditions(todo)["Ready"]
    assert (reason, todo.apply) == ("DoesNotFit", ())
    assert "org/own needs" in message
    assert "these are large enough" in message


def test_an_id_that_the_catalogue_has_needs_no_hub() -> None:
    todo = planned(a_workspace(preset="tiiuae/falcon-7b", instance_type=A100))
    assert len(applied(todo, "Machine")) == 1
    assert "model" not in todo.report[0].status


def test_a_row_comes_back_as_it_was() -> None:
    packed = of_row({**ROW, "quantisation": "mxfp4", "weight_bytes": 5 << 30, "gated": True, "access": "private"})
    for model in (FOUND, packed):
        assert of_row(json.loads(json.dumps(as_row(model)))) == model
