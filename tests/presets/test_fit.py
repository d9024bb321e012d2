"""Whether a model fits on a machine: GPUs, memory of each and of all, RAM where there is no GPU."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.catalog import Catalog, InstanceType, load_catalog
from presets.fit import Fit, Misfit, fits, smallest

CATALOG = load_catalog()


def judged(model: str, size: str, count: int = 1) -> Fit | Misfit:
    instance_type = CATALOG.instance_type(size)
    assert instance_type
    return fits(CATALOG.model(model), instance_type, count, catalog=CATALOG)


@pytest.mark.parametrize(
    ("model", "size", "count", "gpus"),
    [
        ("falcon-7b", "Standard_NC12s_v3", 1, 2),
        ("mistral-7b-instruct", "Standard_NC6s_v3", 1, 1),  # 16Gi on 16 GB: KAITO 0.3.0 refuses it (its PR #539)
        ("llama-2-13b", "Standard_NC12s_v3", 1, 2),  # 15Gi per GPU on V100 16 GB: refused there too
        ("llama-2-13b", "Standard_NC6s_v3", 2, 1),  # may spread over two machines
        ("falcon-40b", "Standard_NC48ads_A100_v4", 1, 2),
        ("smollm2-135m-instruct", "Standard_NC6s_v3", 1, 1),
        ("smollm2-135m-instruct", "Standard_D2s_v5", 1, 0),
    ],
)
def test_what_fits(model: str, size: str, count: int, gpus: int) -> None:
    assert judged(model, size, count) == Fit(gpus_per_node=gpus)


def test_everything_that_stands_against_it_is_said_at_once_with_the_sizes_that_would_do() -> None:
    assert judged("llama-2-70b", "Standard_NC6s_v3") == Misfit(
        problems=(
            "llama-2-70b needs 8 GPUs, Standard_NC6s_v3 has 1",
            "llama-2-70b needs 19 GiB on each GPU, Standard_NC6s_v3 has 16 GiB",
            "llama-2-70b needs 152 GiB of GPU memory, Standard_NC6s_v3 has 16 GiB",
        ),
        sizes=("Standard_ND96asr_v4", "Standard_ND96amsr_A100_v4", "Standard_ND96isr_H100_v5"),
    )


def test_a_model_for_gpus_does_not_fit_on_processors() -> None:
    misfit = judged("phi-2", "Standard_D64s_v5")
    assert isinstance(misfit, Misfit)
    assert misfit.problems == ("phi-2 needs 1 GPU, Standard_D64s_v5 has none",)


def test_more_machines_do_not_help_a_model_that_stays_on_one() -> None:
    misfit = judged("falcon-40b", "Standard_NC24ads_A100_v4", 2)
    assert isinstance(misfit, Misfit)
    assert misfit.problems == (
        "falcon-40b needs 2 GPUs, Standard_NC24ads_A100_v4 has 1",
        "falcon-40b needs 90 GiB of GPU memory, Standard_NC24ads_A100_v4 has 80 GiB",
    )


def test_on_processors_the_machine_keeps_a_part_of_its_memory() -> None:
    model = replace(CATALOG.model("smollm2-135m-instruct"), name="m", total_memory_gib=7)
    small = InstanceType(name="small", cpus=2, memory_gib=8)
    large = InstanceType(name="large", cpus=2, memory_gib=16)
    catalog = Catalog(models={"m": model}, instance_types={"small": small, "large": large}, gpus={})
    assert fits(model, large, 1, catalog=catalog) == Fit(gpus_per_node=0)
    assert fits(model, small, 1, catalog=catalog) == Misfit(
        problems=("m needs 7 GiB of memory, small gives pods about 6 GiB",), sizes=("large",)
    )


@pytest.mark.parametrize(
    ("model", "fits_on", "too_small"),
    [
        ("phi-4-mini-instruct", "Standard_NV18ads_A10_v5", "Standard_NV12ads_A10_v5"),
        ("llama-3.1-8b-instruct", "Standard_NV36ads_A10_v5", "Standard_NC4as_T4_v3"),
        ("gpt-oss-120b", "Standard_NC24ads_A100_v4", "Standard_NV72ads_A10_v5"),
        ("llama-3.3-70b-instruct", "Standard_NC48ads_A100_v4", "Standard_NC24ads_A100_v4"),
        ("deepseek-r1", "Standard_ND96isr_H200_v5", "Standard_ND96isr_H100_v5"),
        ("llama-3.1-405b-instruct", "p5en.48xlarge", "p5.48xlarge"),
    ],
)
def test_a_model_that_states_no_need_is_estimated(model: str, fits_on: str, too_small: str) -> None:
    """One card of 80 GB for gpt-oss-120b, eight H200 for R1 in float8: as their makers say."""
    assert isinstance(judged(model, fits_on), Fit)
    misfit = judged(model, too_small)
    assert isinstance(misfit, Misfit)
    assert "GiB" in misfit.problems[0]


def test_what_is_suggested_is_of_the_same_cloud() -> None:
    misfit = judged("llama-3.3-70b-instruct", "g5.xlarge")
    assert isinstance(misfit, Misfit)
    assert misfit.sizes == ("g6e.12xlarge", "g6e.24xlarge", "g5.48xlarge")


def test_cards_of_amd_are_refused_with_the_reason() -> None:
    misfit = judged("deepseek-r1", "Standard_ND96isr_MI300X_v5")
    assert isinstance(misfit, Misfit)
    assert misfit.problems == (
        "Standard_ND96isr_MI300X_v5 has MI300X GPUs, the preset images are built for those of NVIDIA",
    )


@pytest.mark.properties
@given(
    model=st.sampled_from(sorted(CATALOG.models)),
    size=st.sampled_from(sorted(CATALOG.instance_types)),
    count=st.integers(1, 8),
)
def test_what_is_suggested_fits_is_sold_and_more_machines_never_hurt(model: str, size: str, count: int) -> None:
    for suggested in smallest(CATALOG.model(model), count, catalog=CATALOG):
        assert isinstance(judged(model, suggested, count), Fit)
        assert not CATALOG.instance_types[suggested].retired
    if isinstance(judged(model, size, count), Fit):
        assert isinstance(judged(model, size, count + 1), Fit)
