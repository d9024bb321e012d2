"""The catalogue: what is in it, how it is asked, and what it says of broken data."""

import dataclasses
import re
from pathlib import Path

import pytest

from presets.architecture import parameters
from presets.catalog import (
    HERE,
    CatalogError,
    Gpu,
    InstanceType,
    Model,
    UnknownModel,
    load_catalog,
    read_catalog,
    read_table,
)
from presets.estimate import weight_bytes
from presets.estimate_tuning import adapter_parameters

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


def test_besides_kaitos_there_is_a_current_set() -> None:
    more = CATALOG.models.keys() - KAITO_0_3
    assert "smollm2-135m-instruct" in more
    assert len(more) > 40


def test_what_runs_without_a_gpu_is_small() -> None:
    on_processors = [model for model in CATALOG.models.values() if model.cpu]
    assert {model.name for model in on_processors}.isdisjoint(KAITO_0_3)
    assert max(model.parameters for model in on_processors) < 5e9


@pytest.mark.parametrize("name", CATALOG.models)
def test_a_row_is_complete_and_agrees_with_its_architecture(name: str) -> None:
    """Published counts against what the shapes come to: a wrong digit in either is seen."""
    model = CATALOG.models[name]
    assert parameters(model.architecture) == pytest.approx(model.parameters, rel=0.03)
    assert weight_bytes(dataclasses.replace(model.weights, file_bytes=0)) == pytest.approx(model.file_bytes, rel=0.03)
    assert model.active_parameters <= model.parameters
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.hub)
    assert model.license
    assert model.tuning == bool(model.target_modules) or name in KAITO_0_3
    if model.tuning:
        assert adapter_parameters(model.architecture, rank=8, targets=model.target_modules) > 0
    assert (model.arguments["pipeline"] == "conversational") <= model.chat
    a = model.architecture
    assert a.heads % a.kv_heads == 0
    assert a.windowed_layers <= a.layers
    assert (a.window > 0) == (a.windowed_layers > 0)


def test_gated_models_are_not_published_as_images() -> None:
    assert [model.name for model in CATALOG.models.values() if model.gated and model.access != "private"] == []


@pytest.mark.parametrize("alias", ["microsoft/Phi-4", "phi-4-mini", "PHI-3-MINI", "meta-llama/llama-3.1-8b-instruct"])
def test_a_model_is_found_by_alias_and_by_its_id_on_the_hub(alias: str) -> None:
    model = CATALOG.model(alias)
    assert alias.lower() in {model.hub.lower(), *model.aliases}


def test_every_alias_is_a_name_of_one_model_alone() -> None:
    names = [n.lower() for m in CATALOG.models.values() for n in {m.name, m.hub, *m.aliases}]
    assert len(names) == len(set(names))


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
    "a: [": "sizes.yaml: .*line [12]",
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


ARCHITECTURE = (
    "{layers: 2, hidden: 64, heads: 4, kv_heads: 2, head_size: 16, intermediate: 128, vocabulary: 1000, context: 512}"
)
ROW = f"access: public, hub: o/n, license: mit, parameters: 190464, architecture: {ARCHITECTURE}"


def read(tmp_path: Path, **files: str) -> None:
    """A catalogue of these model files, with the real tables beside."""
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    read_catalog(tmp_path, HERE / "instance_types.yaml", HERE / "gpus.yaml")


@pytest.mark.badinput
def test_two_files_may_not_have_one_model(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"^two\.yaml: m: another file has a model of this name"):
        read(tmp_path, one=f"m: {{{ROW}}}", two=f"m: {{{ROW}}}")


@pytest.mark.badinput
def test_two_models_may_not_have_one_name(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"^n and m are both called o/n"):
        read(tmp_path, one=f"m: {{{ROW}}}\nn: {{{ROW}}}")


@pytest.mark.badinput
def test_a_size_with_a_card_nobody_knows_is_named(tmp_path: Path) -> None:
    (tmp_path / "sizes.yaml").write_text("a: {cpus: 2, memory_gib: 8, gpus: 1, gpu_model: B9000, gpu_memory_gib: 8}")
    with pytest.raises(CatalogError, match=r"^sizes\.yaml: a\.gpu_model: gpus\.yaml has no B9000"):
        read_catalog(tmp_path / "none", tmp_path / "sizes.yaml", HERE / "gpus.yaml")


BROKEN_MODELS = {
    f"m: {{{ROW}, layers: 3}}": "m.layers: Unexpected keyword argument",
    f"m: {{{ROW.replace('layers: 2', 'layers: 0')}}}": "m.architecture.layers: Input should be greater than 0",
    f"m: {{{ROW.replace('layers: 2', 'layers: two')}}}": "m.architecture.layers: Input should be a valid integer",
    f"m: {{{ROW.replace('layers: 2, ', '')}}}": "m.architecture.layers: Field required",
    f"m: {{{ROW.replace('public', 'open')}}}": "m.access: Input should be 'public' or 'private'",
    f"m: {{{ROW}, gated: 'yes'}}": "m.gated: Input should be a valid boolean",
    f"m: {{{ROW}, dtype: int4}}": "m.dtype: Input should be 'bfloat16', 'float16' or 'float32'",
}


@pytest.mark.badinput
@pytest.mark.parametrize("content", BROKEN_MODELS)
def test_a_broken_model_is_named_with_file_row_and_field(tmp_path: Path, content: str) -> None:
    with pytest.raises(CatalogError) as caught:
        read(tmp_path, models=content)
    assert str(caught.value) == f"models.yaml: {BROKEN_MODELS[content]}"


def test_what_a_row_leaves_out_follows_from_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(f"m: {{{ROW}, chat: true}}")
    model = read_table(tmp_path / "models.yaml", of=Model)["m"]
    assert model.file_bytes == 2 * parameters(model.architecture)
    assert model.total_memory_gib == 1  # CUDA's own part, rounded up
    assert model.disk_gib == 81  # its own GiB, and 80 for system and images
    assert model.arguments == {"torch_dtype": "bfloat16", "pipeline": "conversational"}
    assert model.readiness_seconds == 1800
    assert not model.states_need


@pytest.mark.parametrize("name", [n for n, size in CATALOG.instance_types.items() if size.gpus])
def test_a_program_finds_less_of_a_card_than_the_cloud_says_and_not_much_less(name: str) -> None:
    size = CATALOG.instance_types[name]
    stated = (size.gpu_memory_gib << 30) / size.gpus
    assert 0.92 * stated <= CATALOG.gpu_bytes(size) <= stated * (1 + 1 / 128)  # H100 NVL has a little more than its 94


def test_a_part_of_a_card_has_that_part_of_it() -> None:
    whole, sixth = CATALOG.instance_types["Standard_NV36ads_A10_v5"], CATALOG.instance_types["Standard_NV6ads_A10_v5"]
    assert CATALOG.gpu_bytes(sixth) * 6 == pytest.approx(CATALOG.gpu_bytes(whole), rel=1e-6)


def test_a_machine_without_gpus_has_no_memory_of_them() -> None:
    assert CATALOG.gpu_bytes(CATALOG.instance_types["Standard_D2s_v5"]) == 0


def test_every_card_is_of_some_machine() -> None:
    assert {size.gpu_model for size in CATALOG.instance_types.values() if size.gpus} == set(CATALOG.gpus)
    assert all(isinstance(card, Gpu) for card in CATALOG.gpus.values())
