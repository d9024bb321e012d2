"""The catalogue: what is in it, how it is asked, and what it says of broken data."""

import dataclasses
from pathlib import Path

import pytest

from presets.catalog import CatalogError, InstanceType, Model, UnknownModel, load_catalog, read_catalog, read_table

CATALOG = load_catalog()

# KAITO 0.3.0's registry: access, disk, GPUs, memory, memory per GPU, tuning; with its bugs put right (400Gi, 28Gi).
KAITO_0_3 = {
    "falcon-7b": ("public", 50, 1, 14, 0, True),
    "falcon-7b-instruct": ("public", 50, 1, 14, 0, False),
    "falcon-40b": ("public", 400, 2, 90, 0, True),
    "falcon-40b-instruct": ("public", 400, 2, 90, 0, False),
    "mistral-7b": ("public", 100, 1, 14, 0, True),
    "mistral-7b-instruct": ("public", 100, 1, 16, 0, False),
    "phi-2": ("public", 50, 1, 12, 0, True),
    "phi-3-mini-4k-instruct": ("public", 50, 1, 9, 0, True),
    "phi-3-mini-128k-instruct": ("public", 50, 1, 9, 0, True),
    "phi-3-medium-4k-instruct": ("public", 50, 1, 28, 0, True),
    "phi-3-medium-128k-instruct": ("public", 50, 1, 28, 0, True),
    "llama-2-7b": ("private", 34, 1, 14, 14, False),
    "llama-2-13b": ("private", 46, 2, 30, 15, False),
    "llama-2-70b": ("private", 158, 8, 152, 19, False),
    "llama-2-7b-chat": ("private", 34, 1, 16, 14, False),
    "llama-2-13b-chat": ("private", 46, 2, 30, 15, False),
    "llama-2-70b-chat": ("private", 158, 8, 192, 19, False),
}


@pytest.mark.parametrize("name", KAITO_0_3)
def test_a_preset_of_kaito_needs_what_it_needs_there(name: str) -> None:
    model = CATALOG.model(name)
    facts = (model.access, model.disk_gib, model.gpus, model.total_memory_gib, model.per_gpu_memory_gib, model.tuning)
    assert facts == KAITO_0_3[name]


def test_besides_kaitos_there_is_the_embedded_model_alone() -> None:
    assert set(CATALOG.models) == {*KAITO_0_3, "smollm2-135m-instruct"}


def test_only_the_embedded_model_runs_without_a_gpu() -> None:
    assert [model.name for model in CATALOG.models.values() if model.cpu] == ["smollm2-135m-instruct"]


def test_only_the_large_llamas_spread_over_machines() -> None:
    spread = {model.name for model in CATALOG.models.values() if model.distributed}
    assert spread == {"llama-2-13b", "llama-2-70b", "llama-2-13b-chat", "llama-2-70b-chat"}


def test_no_preset_runs_code_out_of_a_model_directory() -> None:
    assert [model.name for model in CATALOG.models.values() if "trust_remote_code" in model.arguments] == []


def test_the_table_has_every_size_of_kaitos_and_no_size_that_contradicts_itself() -> None:
    kaito = {"Standard_NC12s_v3": (2, 32), "Standard_ND96amsr_A100_v4": (8, 640), "Standard_NV72ads_A10_v5": (2, 48)}
    for name, facts in kaito.items():
        size = CATALOG.instance_types[name]
        assert (size.gpus, size.gpu_memory_gib) == facts
    for size in CATALOG.instance_types.values():
        assert (size.gpus == 0) == (size.gpu_memory_gib == 0) == (size.gpu_model == "")
    assert sum(size.gpus > 0 for size in CATALOG.instance_types.values()) >= 38


@pytest.mark.parametrize("written", ["standard_d2s_V5", "STANDARD_D2S_V5", "Standard_D2s_v5"])
def test_look_ups_do_not_mind_upper_and_lower_case(written: str) -> None:
    assert CATALOG.instance_type(written) == InstanceType(name="Standard_D2s_v5", cpus=2, memory_gib=8)
    assert CATALOG.model("Falcon-7B").name == "falcon-7b"


def test_an_unknown_size_is_no_error_but_has_neighbours() -> None:
    assert CATALOG.instance_type("Standard_NC24s_A100_v4") is None
    assert CATALOG.like("Standard_NC24s_A100_v4")[0] == "Standard_NC24ads_A100_v4"


def test_an_unknown_model_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(UnknownModel) as caught:
        CATALOG.model("smollm2-135m-instrct")
    assert caught.value.nearest == ("smollm2-135m-instruct",)
    assert str(caught.value) == "there is no preset 'smollm2-135m-instrct'; did you mean smollm2-135m-instruct?"


def test_a_name_like_no_other_is_answered_with_where_the_names_are() -> None:
    with pytest.raises(UnknownModel, match="`kaito models` lists them"):
        CATALOG.model("qqqq")


def test_the_catalogue_is_read_once_and_cannot_be_changed() -> None:
    assert load_catalog() is CATALOG
    with pytest.raises(dataclasses.FrozenInstanceError):
        CATALOG.model("phi-2").gpus = 2  # type: ignore[misc]


BROKEN = {
    "a: {cpus: two, memory_gib: 8}": "sizes.yaml: a.cpus: Input should be a valid integer",
    "a: {cpus: '2', memory_gib: 8}": "sizes.yaml: a.cpus: Input should be a valid integer",
    "a: {cpus: true, memory_gib: 8}": "sizes.yaml: a.cpus: Input should be a valid integer",
    "a: {cpus: -2, memory_gib: 8}": "sizes.yaml: a.cpus: Input should be greater than 0",
    "a: {memory_gib: 8}": "sizes.yaml: a.cpus: Field required",
    "a: {cpus: 2, memory_gib: 8, gpu: 1}": "sizes.yaml: a.gpu: Unexpected keyword argument",
    "a: {cpus: 2, memory_gib: 8, 3: 1}": "sizes.yaml: a.3: Unexpected keyword argument",
    "a: 2": "sizes.yaml: a: fields by name are expected",
    "[a]": "sizes.yaml: rows by name are expected",
    "": "sizes.yaml: rows by name are expected",
    "a: {cpus: 1, memory_gib: 8}\na: {cpus: 2, memory_gib: 8}": "sizes.yaml: a is there twice.*line 2",
    "a: {cpus: 2, cpus: 3, memory_gib: 8}": "sizes.yaml: cpus is there twice.*line 1",
    "a: [": "sizes.yaml: .*line 1",
    "a: &x {cpus: *y}": "sizes.yaml: .*undefined alias.*line 1",
    "a: !!python/object/apply:os.getcwd []": "sizes.yaml: could not determine a constructor.*line 1",
}


@pytest.mark.badinput
@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_row_is_named_with_file_row_and_field(tmp_path: Path, content: str) -> None:
    table = tmp_path / "sizes.yaml"
    table.write_text(content)
    with pytest.raises(CatalogError, match=f"^{BROKEN[content]}"):
        read_table(table, of=InstanceType)


@pytest.mark.badinput
def test_two_files_may_not_have_one_model(tmp_path: Path) -> None:
    row = "m: {access: public, disk_gib: 1, gpus: 1, total_memory_gib: 1, arguments: {}}"
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(row)
    sizes = tmp_path / "sizes"
    sizes.write_text("a: {cpus: 2, memory_gib: 8}")
    with pytest.raises(CatalogError, match=r"^two\.yaml: m: another file has a model of this name"):
        read_catalog(tmp_path, sizes)


def test_a_row_is_read_whole(tmp_path: Path) -> None:
    table = tmp_path / "models.yaml"
    table.write_text("m: {access: private, disk_gib: 5, gpus: 2, total_memory_gib: 9, arguments: {torch_dtype: auto}}")
    wanted = Model(
        name="m", access="private", disk_gib=5, gpus=2, total_memory_gib=9, arguments={"torch_dtype": "auto"}
    )
    assert read_table(table, of=Model) == {"m": wanted}
