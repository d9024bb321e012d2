"""Cards that the runtime's torch has no code for: no machine with them is bought, and it is said which would do."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from kaito_operator.api.sources import Source
from kaito_operator.api.spec import DEFAULT_INSTANCE_TYPE
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.controller import mistakes
from kaito_operator.workspace.installation import Installation, installation
from kaito_operator.workspace.machines import machine_name
from tests.support.builders import UID, a_node, a_ready_machine, a_workspace, rolled_out, stored
from tests.support.planning import CATALOG, INSTALLATION, applied, conditions, planned

V100, T4, A_CPU = "Standard_NC6s_v3", "Standard_NC4as_T4_v3", "Standard_D2s_v5"
AS_IT_IS = Installation("mcr.microsoft.com/aks/kaito", "1.2.3")
"""A cluster without images of ours: KAITO's run."""
WITH_RUNTIME = replace(AS_IT_IS, runtime_image="r.io/kaito-runtime:1.2.3")
OLDER_TORCH = replace(INSTALLATION, oldest_card=(7, 0))
OWN = {
    "preset": {"name": "falcon-7b", "accessMode": "private", "presetOptions": {"image": "team.example.com/falcon:1"}}
}
TEMPLATE = {
    "template": {"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}}
}
TUNING = {
    "preset": {"name": "phi-3-mini-128k-instruct"},
    "method": "qlora",
    "input": {"urls": ["https://example.com/rows.jsonl"]},
    "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
}


def files_from(source: Source) -> dict[str, str]:
    return {"kaito.sh/model-files": source.value}


REFUSED: dict[str, tuple[dict[str, Any], Installation]] = {
    "our image of the model": (a_workspace(preset="falcon-7b", instance_type=V100), INSTALLATION),
    "our runtime, files of the Hub": (a_workspace(preset="falcon-7b", instance_type=V100), WITH_RUNTIME),
    "our runtime, KAITO's image for its files": (
        a_workspace(preset="falcon-7b", instance_type=V100, annotations=files_from(Source.VOLUME)),
        WITH_RUNTIME,
    ),
    "our runtime, an image of the user's for its files": (
        a_workspace(inference=OWN, instance_type=V100, annotations=files_from(Source.VOLUME)),
        WITH_RUNTIME,
    ),
    "a tuning": (a_workspace(tuning=TUNING, instance_type=V100), WITH_RUNTIME),
    "a tuning in our image of the model": (a_workspace(tuning=TUNING, instance_type=V100), INSTALLATION),
    "two machines": (a_workspace(preset="falcon-7b", instance_type=V100, count=2), INSTALLATION),
    "the size that KAITO takes where none is written": (
        a_workspace(preset="falcon-7b", instance_type=None),
        INSTALLATION,
    ),
}
BOUGHT: dict[str, tuple[dict[str, Any], Installation]] = {
    "KAITO's image": (a_workspace(preset="falcon-7b", instance_type=V100), AS_IT_IS),
    "KAITO's image, asked for": (
        a_workspace(preset="falcon-7b", instance_type=V100, annotations=files_from(Source.KAITO)),
        WITH_RUNTIME,
    ),
    "an image of the user's own": (a_workspace(inference=OWN, instance_type=V100), INSTALLATION),
    "a pod template": (a_workspace(inference=TEMPLATE, instance_type=V100), INSTALLATION),
    "images with an older torch": (a_workspace(preset="falcon-7b", instance_type=V100), OLDER_TORCH),
    "a tuning with an older torch": (a_workspace(tuning=TUNING, instance_type=V100), OLDER_TORCH),
    "a newer card": (a_workspace(preset="falcon-7b", instance_type=T4), INSTALLATION),
    "no card": (a_workspace(instance_type=A_CPU), INSTALLATION),
}


@pytest.mark.money
@pytest.mark.parametrize("case", REFUSED)
def test_no_machine_is_bought_whose_cards_the_runtime_has_no_code_for(case: str) -> None:
    workspace, installed = REFUSED[case]
    todo = planned(workspace, installation=installed)
    status, reason, message = conditions(todo)["WorkspaceReady"]
    assert (todo.apply, todo.delete) == ((), ())
    assert (status, reason) == ("False", "DoesNotFit")
    assert "are of compute capability 7.0, and the runtime is built for 7.5 and newer" in message
    assert message.startswith("resource.instanceType: the V100 cards of Standard_NC")
    assert "; write another, such as Standard_N" in message
    assert "Standard_NC4as_T4_v3 (0.53 USD an hour)" in message
    assert "; or name an image in presetOptions.image whose torch has code for them" in message
    by_default = DEFAULT_INSTANCE_TYPE in message.partition("; write another")[0]
    assert ("(which is taken where none is written)" in message) == by_default
    assert ("(annotation kaito.sh/model-files: kaito)" in message) == ("inference" in workspace)
    assert door_says(workspace, installed) == message, "admission says another thing"


@pytest.mark.parametrize("case", BOUGHT)
def test_the_door_lets_in_what_is_bought(case: str) -> None:
    assert door_says(*BOUGHT[case]) == ""


def door_says(workspace: Mapping[str, Any], installed: Installation) -> str:
    return mistakes(workspace, catalog=CATALOG, runtime=installed.runtime)


@pytest.mark.parametrize("case", BOUGHT)
def test_what_brings_its_own_torch_or_has_a_card_for_ours_is_bought(case: str) -> None:
    workspace, installed = BOUGHT[case]
    assert len(applied(planned(workspace, installation=installed), "Machine")) == 1


@pytest.mark.money
def test_of_all_sizes_exactly_those_with_new_enough_cards_are_bought() -> None:
    bought = {name for name in CATALOG.instance_types if applied(planned(small(name)), "Machine")}
    capabilities = {name: CATALOG.gpus[size.gpu_model].compute_capability for name, size in sizes_of_nvidia().items()}
    old = {name for name, capability in capabilities.items() if float(capability) < 7.5}
    assert old
    assert old & bought == set()
    assert capabilities.keys() - old <= bought


def small(instance_type: str) -> dict[str, Any]:
    """What every card has room for."""
    return a_workspace(instance_type=instance_type)


def sizes_of_nvidia() -> Mapping[str, Any]:
    return {
        name: size
        for name, size in CATALOG.instance_types.items()
        if size.gpus and CATALOG.gpus[size.gpu_model].maker == "nvidia"
    }


def test_what_is_suggested_instead_has_new_enough_cards_and_is_of_the_same_cloud() -> None:
    message = conditions(planned(a_workspace(preset="falcon-7b", instance_type="p3.2xlarge")))["WorkspaceReady"][2]
    assert "such as g4dn.xlarge" in message
    assert "p3." not in message.partition("; write another")[2]


def test_what_runs_already_is_left_alone() -> None:
    """As after an upgrade from images with an older torch."""
    workspace = a_workspace(preset="falcon-7b", instance_type=V100)
    name = machine_name(UID, slot=0, attempt=1)
    its = (
        a_ready_machine(name, node="n", instance_type=V100),
        a_node("n", instance_type=V100, gpus=1, held_by="chat", pool=name),
    )
    before = planned(workspace, *its, installation=OLDER_TORCH)
    there = [*map(stored, applied(before, "Service")), *map(rolled_out, applied(before, "Deployment"))]
    todo = planned(workspace, *its, *there)
    assert (todo.apply, todo.delete) == ((), ())
    assert conditions(todo)["WorkspaceReady"][1] == "DoesNotFit"


def test_the_oldest_card_is_a_setting() -> None:
    read = [installation(WorkspaceSettings(runtime_capability=text)).oldest_card for text in ("7.5", "0.0", "12.0")]
    assert read == [(7, 5), (0, 0), (12, 0)]
    assert installation(WorkspaceSettings()).oldest_card == (7, 5)
