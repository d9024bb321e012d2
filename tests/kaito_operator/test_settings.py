"""Settings come from the environment, are frozen, and are all documented."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from kaito_operator.settings import ControllerSettings, ProvisionerSettings, WorkspaceSettings, as_markdown

PAGE = Path(__file__).parent.parent.parent / "docs/reference/settings.md"
MODELS = (ControllerSettings, WorkspaceSettings, ProvisionerSettings)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in MODELS:
        for field in model.model_fields.values():
            monkeypatch.delenv(str(field.alias), raising=False)


def test_the_workspace_operator_starts_without_any() -> None:
    settings = WorkspaceSettings()
    assert (settings.preset_registry, settings.cloud, settings.namespace) == (
        "mcr.microsoft.com/aks/kaito",
        "azure",
        "kaito-system",
    )


def test_kaitos_own_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kaitos = {
        "PRESET_REGISTRY_NAME": "registry.example.com/models",
        "CLOUD_PROVIDER": "aws",
        "RELEASE_NAMESPACE": "elsewhere",
    }
    for name, value in kaitos.items():
        monkeypatch.setenv(name, value)
    settings = WorkspaceSettings()
    assert (settings.preset_registry, settings.cloud, settings.namespace) == tuple(kaitos.values())


REQUIRED = {"ARM_SUBSCRIPTION_ID": "s", "ARM_RESOURCE_GROUP": "g", "AZURE_CLUSTER_NAME": "c"}


@pytest.mark.parametrize("model", MODELS)
def test_a_variable_that_is_called_as_a_field_sets_nothing(
    model: type[ControllerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    before = model()
    written = {name: "7" for name, field in model.model_fields.items() if field.alias != name.upper()}
    for name in written:
        for spelt in (name, name.upper()):
            monkeypatch.setenv(spelt, "7")
    assert {"workers", "pod", "log_level"} <= written.keys()
    assert model() == before


@pytest.mark.parametrize("model", MODELS)
def test_code_sets_a_field_by_its_own_name(model: type[ControllerSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KAITO_WORKERS", "5")
    assert (model().workers, model(workers=3).workers) == (5, 3)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAITO_WORKERS", "")
    assert WorkspaceSettings().workers == 8


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAITO_WORKERS", "0"),
        ("KAITO_LOG_FORMAT", "xml"),
        ("KAITO_LEASE_SECONDS", "-1"),
        ("KAITO_RESYNC_SECONDS", "often"),
        ("CLOUD_PROVIDER", "azur"),
    ],
)
def test_a_wrong_value_is_refused_under_its_variables_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as wrong:
        WorkspaceSettings()
    assert [problem["loc"] for problem in wrong.value.errors()] == [(name,)]


def test_the_provisioner_needs_to_know_its_cluster() -> None:
    with pytest.raises(ValidationError) as wrong:
        ProvisionerSettings()
    assert {problem["loc"][0] for problem in wrong.value.errors()} == {
        "ARM_SUBSCRIPTION_ID",
        "ARM_RESOURCE_GROUP",
        "AZURE_CLUSTER_NAME",
    }


def test_they_are_frozen() -> None:
    with pytest.raises(ValidationError):
        WorkspaceSettings().workers = 1  # type: ignore[misc]  # that is the point


def test_every_setting_says_what_it_means_and_has_a_variable_of_its_own() -> None:
    for model in MODELS:
        for name, field in model.model_fields.items():
            assert field.description, name
            assert re.fullmatch(r"[A-Z][A-Z0-9_]+", str(field.alias)), name
        assert len({field.alias for field in model.model_fields.values()}) == len(model.model_fields)


def test_the_reference_page_is_that_of_the_models() -> None:
    assert PAGE.read_text() == as_markdown(), "python -m kaito_operator.settings > docs/reference/settings.md"
