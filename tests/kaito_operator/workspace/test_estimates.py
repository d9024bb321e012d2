"""What a Workspace is said to take and cost, and that a price nobody knows is not made up."""

from math import ceil
from typing import Any

from kaito_operator.plan import Plan
from presets.estimate import GIB
from presets.estimate_tuning import Tuning, tuning
from tests.support.builders import a_workspace
from tests.support.planning import CATALOG, conditions, planned


def estimate(todo: Plan) -> Any:
    return todo.report[0].status.get("estimate")


def test_nodes_gpus_memory_and_price_are_in_the_status_before_anything_is_bought() -> None:
    todo = planned(a_workspace(preset="falcon-40b", instance_type="Standard_NC48ads_A100_v4", count=2))
    assert estimate(todo) == {
        "nodes": 2,
        "gpusPerNode": 2,
        "memoryGiB": 90,
        "pricePerHour": "14.69 USD an hour (eastus, 2024-12-01)",
    }


def test_a_price_nobody_told_us_is_unknown() -> None:
    todo = planned(a_workspace(preset="falcon-7b", instance_type="Standard_ND96isr_H200_v5"))
    assert estimate(todo)["pricePerHour"] == "unknown"


def test_machines_of_the_users_own_have_no_price() -> None:
    todo = planned(a_workspace(instance_type=""))
    assert "pricePerHour" not in estimate(todo)


def test_of_a_template_nothing_is_known() -> None:
    template = {"spec": {"containers": [{"name": "mine", "image": "r.io/mine:1"}]}}
    assert estimate(planned(a_workspace(inference={"template": template}))) is None


def test_the_status_is_not_written_again_for_the_estimate() -> None:
    workspace = a_workspace(instance_type="")
    todo = planned(workspace)
    seen = {**workspace, "status": dict(todo.report[0].status)}
    assert planned(seen).report == ()


def test_too_small_a_machine_is_answered_with_those_that_do_and_their_prices() -> None:
    found = conditions(planned(a_workspace(preset="falcon-40b", instance_type="Standard_NC6s_v3", finalizer=False)))
    told = found["WorkspaceReady"][2]
    assert "Standard_NC48ads_A100_v4 (7.35 USD an hour)" in told
    assert "Standard_NC80adis_H100_v5 (13.96 USD an hour)" in told


def test_too_few_machines_are_answered_with_how_many_do() -> None:
    preset = {"name": "llama-2-13b", "accessMode": "private", "presetOptions": {"image": "r.io/a/b:1"}}
    manifest = a_workspace(inference={"preset": preset}, instance_type="Standard_NC24ads_A100_v4", finalizer=False)
    told = conditions(planned(manifest))["WorkspaceReady"]
    assert told[1] == "DoesNotFit"
    assert told[2].endswith("; or write resource.count: 2")


def a_tuning(method: str = "qlora", *, serve: bool = True, size: str = "Standard_NC4as_T4_v3") -> dict[str, Any]:
    spec = {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": method,
        "serve": serve,
        "input": {"urls": ["https://example.com/rows.jsonl"]},
        "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
    }
    return a_workspace(tuning=spec, instance_type=size)


def needed(method: str) -> float:
    """GiB by the estimate itself, told each figure by hand: KAITO's default configuration."""
    model = CATALOG.model("phi-3-mini-128k-instruct")
    wanted = Tuning(method=method, rank=8, targets=model.target_modules, batch=1, sequence=2048, checkpointing=True)  # type: ignore[arg-type]  # one of the two
    return tuning(model.weights, wanted).total / GIB


def test_of_a_tuning_the_memory_is_that_of_the_training() -> None:
    served = CATALOG.model("phi-3-mini-128k-instruct").total_memory_gib
    assert estimate(planned(a_tuning("lora", serve=False)))["memoryGiB"] == ceil(needed("lora"))
    assert estimate(planned(a_tuning("qlora", serve=False)))["memoryGiB"] == ceil(needed("qlora"))
    assert ceil(needed("qlora")) < served, "what is trained in 4 bits is served in 16: both happen on one machine"
    assert estimate(planned(a_tuning("qlora")))["memoryGiB"] == served


def test_every_gpu_of_a_tuning_holds_all_of_it() -> None:
    found = estimate(planned(a_tuning("lora", serve=False, size="Standard_NC64as_T4_v3")))
    assert (found["gpusPerNode"], found["memoryGiB"]) == (4, ceil(4 * needed("lora")))
