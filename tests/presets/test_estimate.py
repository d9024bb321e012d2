"""What serving takes: against published cases, KAITO's estimator and arithmetic; monotone in everything."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.catalog import load_catalog
from presets.estimate import (
    GIB,
    GPU_OVERHEAD,
    Load,
    Memory,
    Split,
    Weights,
    gpus_needed,
    layered,
    limit,
    longest_context,
    most_concurrent,
    quantised,
    serving,
    serving_on_cpu,
    weight_bytes,
)
from scripts.kaito_estimate import nodes

CATALOG = load_catalog()
MODELS = sorted(CATALOG.models)


def weights(name: str) -> Weights:
    return CATALOG.model(name).weights


def room(size: str) -> int:
    found = CATALOG.instance_type(size)
    assert found
    return CATALOG.gpu_bytes(found)


FITS_ON_ONE_GPU = {
    # what makers and papers say runs on one card, and what does not
    ("gpt-oss-120b", "Standard_NC24ads_A100_v4", ""): True,  # its model card: "a single 80GB GPU"
    ("gpt-oss-20b", "Standard_NC4as_T4_v3", ""): True,  # its model card: "within 16GB of memory"
    ("llama-2-70b", "Standard_NC24ads_A100_v4", ""): False,  # 138 GB in float16
    ("llama-2-70b", "g6e.xlarge", "nf4"): True,  # arXiv:2305.14314: a 65B model on a card of 48 GB
    ("llama-3.1-8b-instruct", "Standard_NV36ads_A10_v5", ""): True,
    ("llama-3.1-8b-instruct", "Standard_NC4as_T4_v3", ""): False,  # 16 GB of weights on a card of 15 GiB
    ("llama-3.1-8b-instruct", "Standard_NC4as_T4_v3", "nf4"): True,
    ("phi-4-mini-instruct", "Standard_NC24ads_A100_v4", ""): True,  # KAITO 0.12's own example
}


@pytest.mark.parametrize("case", FITS_ON_ONE_GPU)
def test_what_is_known_to_fit_on_one_card_fits_and_what_is_not_does_not(case: tuple[str, str, str]) -> None:
    name, size, packed = case
    of = quantised(weights(name), packed) if packed else weights(name)  # type: ignore[arg-type]
    needed = serving(of, Load(context=2048)).total
    assert (needed <= room(size)) == FITS_ON_ONE_GPU[case]


def test_r1_fits_on_eight_h200_and_not_on_eight_h100() -> None:
    """As DeepSeek's own instructions say."""
    needed = serving(weights("deepseek-r1"), Load(context=4096), split=Split(pipeline=8)).total
    assert room("Standard_ND96isr_H100_v5") < needed <= room("Standard_ND96isr_H200_v5")


@pytest.mark.parametrize(
    ("name", "packed", "gib"),
    [
        ("llama-3.1-8b-instruct", "", 14.96),  # 16.06 GB on the Hub
        ("gpt-oss-20b", "mxfp4", 12.8),  # 13.76 GB on the Hub
        ("gpt-oss-120b", "mxfp4", 60.8),  # its model card: 60.8 GiB
        ("llama-2-70b", "nf4", 33.2),  # 4.127 bits for each packed weight, and two embeddings of 0.5 GiB
        ("llama-2-70b", "int8", 64.3),
        ("deepseek-r1", "fp8", 626.8),
    ],
)
def test_packed_weights_are_as_large_as_published(name: str, packed: str, gib: float) -> None:
    assert weight_bytes(quantised(weights(name), packed)) / GIB == pytest.approx(gib, rel=0.02)  # type: ignore[arg-type]


def test_a_kv_head_is_never_cut() -> None:
    of, load = weights("phi-4"), Load(context=8192)  # 10 KV heads
    whole = serving(of, load).kv_cache
    assert serving(of, load, split=Split(tensor=10)).kv_cache == pytest.approx(whole / 10, abs=1)
    assert serving(of, load, split=Split(tensor=40)).kv_cache == pytest.approx(whole / 10, abs=1)


def test_tensor_and_pipeline_hold_all_of_the_weights_together() -> None:
    of = weights("llama-3.1-8b-instruct")
    whole = serving(of, Load(context=2048)).weights
    assert 4 * serving(of, Load(context=2048), split=Split(tensor=4)).weights == pytest.approx(whole, rel=1e-6)
    piped = serving(of, Load(context=2048), split=Split(pipeline=4)).weights
    assert whole / 4 < piped < whole / 2  # the fullest has an embedding beside its layers


def test_the_gpus_needed_are_the_fewest_that_do() -> None:
    of, load, card = weights("llama-3.3-70b-instruct"), Load(context=8192), room("Standard_NC24ads_A100_v4")
    needed = gpus_needed(of, load, card)
    assert needed == 2
    assert serving(of, load, split=layered(of.architecture, needed)).total <= card
    assert serving(of, load, split=layered(of.architecture, needed - 1)).total > card


def test_no_number_of_gpus_smaller_than_cuda_itself_is_enough() -> None:
    assert gpus_needed(weights("smollm2-135m-instruct"), Load(context=1), GPU_OVERHEAD) == 0


def test_what_limits_is_the_largest_part() -> None:
    assert limit(Memory(weights=3, kv_cache=2, activations=1, overhead=9)) == "weights"
    assert limit(serving(weights("phi-3-mini-128k-instruct"), Load(context=100_000))) == "KV cache"


@pytest.mark.parametrize("how", [serving, serving_on_cpu])
def test_the_longest_context_is_the_longest(how: Callable[[Weights, Load], Memory]) -> None:
    of = weights("llama-3.1-8b-instruct")
    for size in (24 * GIB, 40 * GIB):
        tokens = longest_context(partial(how, of), size, most=131072)
        if how(of, Load(context=1)).total > size:
            assert tokens == 0
            continue
        assert how(of, Load(context=tokens)).total <= size
        assert tokens == 131072 or how(of, Load(context=tokens + 1)).total > size
        many = most_concurrent(partial(how, of), size, context=4096)
        assert how(of, Load(context=4096, concurrency=many)).total <= size
        assert how(of, Load(context=4096, concurrency=many + 1)).total > size


LOADS = st.builds(Load, context=st.integers(1, 200_000), concurrency=st.integers(1, 200))


@pytest.mark.properties
@given(name=st.sampled_from(MODELS), load=LOADS, more=st.integers(0, 5000), gpus=st.sampled_from([1, 2, 4, 8]))
def test_more_is_never_cheaper_and_more_gpus_never_hold_more_each(name: str, load: Load, more: int, gpus: int) -> None:
    of = weights(name)
    split = layered(of.architecture, gpus)
    total = serving(of, load, split=split).total
    assert total <= serving(of, replace(load, context=load.context + more), split=split).total
    assert total <= serving(of, replace(load, concurrency=load.concurrency + more), split=split).total
    assert total >= serving(of, load, split=layered(of.architecture, 2 * gpus)).total
    assert serving_on_cpu(of, load).total <= serving_on_cpu(of, replace(load, context=load.context + more)).total


@pytest.mark.properties
@given(name=st.sampled_from([n for n in MODELS if not CATALOG.models[n].quantisation]))
def test_fewer_bits_are_fewer_bytes(name: str) -> None:
    of = weights(name)
    plain, eight, four = (weight_bytes(quantised(of, packed)) for packed in ("", "int8", "nf4"))
    assert four < eight < plain
    assert weight_bytes(replace(of, dtype="float32")) == 2 * plain


# KAITO 0.12's estimator: of floor(card) × 0.84 it takes 2.3 GiB and the KV cache of 2048 tokens; 2 % and 5 % on top.
KAITO_NODES = {
    ("phi-4-mini-instruct", "Standard_NC24ads_A100_v4"): 1,
    ("llama-3.1-8b-instruct", "Standard_NC24ads_A100_v4"): 1,
    ("llama-3.3-70b-instruct", "Standard_NC48ads_A100_v4"): 2,
    ("qwen2.5-32b-instruct", "Standard_NC24ads_A100_v4"): 2,
    ("deepseek-r1", "Standard_ND96isr_H200_v5"): 1,
}


def test_kaitos_formula_says_which_gpus_are_too_small() -> None:
    small = replace(CATALOG.instance_types["Standard_NV6ads_A10_v5"], gpu_memory_gib=2)
    assert nodes(CATALOG.model("phi-2"), small) == 0


@pytest.mark.parametrize("case", KAITO_NODES)
def test_kaitos_formula_comes_to_what_it_says(case: tuple[str, str]) -> None:
    name, size = case
    assert nodes(CATALOG.model(name), CATALOG.instance_types[size]) == KAITO_NODES[case]
