"""What tuning takes: against peft's own count, published cases and arithmetic; monotone in everything."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from presets.architecture import Architecture
from presets.catalog import load_catalog
from presets.estimate import GIB, Weights
from presets.estimate_tuning import Tuning, UnknownTarget, adapter_parameters, lowered, tuning

CATALOG = load_catalog()
TUNABLE = sorted(model.name for model in CATALOG.models.values() if model.tuning)
TINY = Architecture(layers=2, hidden=64, heads=4, kv_heads=2, head_size=16, intermediate=96, vocabulary=300, context=64)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("targets", [("q_proj",), ("q_proj", "v_proj"), ("o_proj", "gate_proj", "down_proj")])
@pytest.mark.parametrize("rank", [1, 8])
def test_the_adapter_is_as_large_as_that_of_peft(targets: tuple[str, ...], rank: int) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `tuning` is not installed")
    peft = pytest.importorskip("peft")
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, vocab_size=300,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with_adapter = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=list(targets)))
    trained = sum(each.numel() for each in with_adapter.parameters() if each.requires_grad)
    assert trained == adapter_parameters(TINY, rank=rank, targets=targets)


def test_an_unknown_target_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UnknownTarget, match=r"there is no target module 'query'; these are known: .*q_proj"):
        adapter_parameters(TINY, rank=8, targets=("query",))


ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_the_case_of_the_qlora_paper() -> None:
    """arXiv:2305.14314, abstract and figure 6: 65 billion parameters on one GPU of 48 GB, rank 64 beside all linear
    layers, rows of 512 tokens, checkpointing and a paged optimizer."""
    asked = Tuning(
        method="qlora", rank=64, targets=ALL_LINEAR, batch=1, sequence=512, checkpointing=True, optimizer="adamw_8bit"
    )
    needed = tuning(CATALOG.model("llama-2-70b").weights, asked).total
    assert 36 * GIB < needed < 48e9


def test_plain_lora_keeps_sixteen_bits_of_every_weight() -> None:
    of = CATALOG.model("llama-2-7b").weights
    lora, qlora = (tuning(of, Tuning(method=method, sequence=512)) for method in ("lora", "qlora"))
    assert lora.weights / GIB == pytest.approx(12.55 * 1.02, rel=0.01)
    assert qlora.weights < lora.weights / 3


def test_the_state_of_the_optimizer_is_counted() -> None:
    of = CATALOG.model("llama-2-7b").weights
    trained = adapter_parameters(of.architecture, rank=8, targets=("q_proj", "v_proj"))
    assert trained == 4_194_304  # arXiv:2106.09685 has 4.7 M for GPT-3's 96 layers of rank 1; here 32 × 8 × 4 × 4096
    asked = Tuning(method="lora", targets=("q_proj", "v_proj"))
    assert tuning(of, asked).adapter == trained * (4 + 4 + 8)
    assert tuning(of, replace(asked, optimizer="adamw_8bit")).adapter == trained * (4 + 4 + 2)


def test_what_to_lower_is_said_the_least_first() -> None:
    of = CATALOG.model("phi-3-mini-128k-instruct").weights
    asked = Tuning(method="lora", targets=("qkv_proj",), batch=8, sequence=4096)
    needed = tuning(of, asked).total
    assert lowered(of, asked, needed - 1) == "switch gradient checkpointing on"
    once = tuning(of, replace(asked, checkpointing=True)).total
    assert lowered(of, asked, once - 1) == "switch gradient checkpointing on and lower the batch size to 1"
    assert lowered(of, asked, 8 * GIB).endswith("use qlora")
    assert "sequence length to" in lowered(of, asked, 4 * GIB)
    assert lowered(of, asked, 1 * GIB) == ""


TUNINGS = st.builds(
    Tuning,
    method=st.sampled_from(["lora", "qlora"]),
    rank=st.integers(1, 128),
    targets=st.just(("q_proj", "v_proj")),
    batch=st.integers(1, 64),
    sequence=st.integers(1, 32768),
    checkpointing=st.booleans(),
    optimizer=st.sampled_from(["adamw", "adamw_8bit", "sgd"]),
)


@pytest.mark.properties
@given(name=st.sampled_from(TUNABLE), asked=TUNINGS, more=st.integers(1, 64))
def test_more_is_never_cheaper(name: str, asked: Tuning, more: int) -> None:
    of = CATALOG.model(name).weights
    total = tuning(of, asked).total
    for larger in (
        replace(asked, rank=asked.rank + more),
        replace(asked, batch=asked.batch + more),
        replace(asked, sequence=asked.sequence + more),
        replace(asked, checkpointing=False),
        replace(asked, optimizer="adamw"),
        replace(asked, targets=(*asked.targets, "o_proj")),
    ):
        assert tuning(of, larger).total >= total


@pytest.mark.properties
@given(name=st.sampled_from(TUNABLE), asked=TUNINGS, room=st.integers(GIB, 200 * GIB))
def test_what_is_to_be_lowered_helps(name: str, asked: Tuning, room: int) -> None:
    of: Weights = CATALOG.model(name).weights
    assume(tuning(of, asked).total > room)
    advice = lowered(of, asked, room)
    smallest = replace(
        asked, checkpointing=True, batch=1, method="qlora", sequence=min(asked.sequence, 256),
        optimizer="adamw_8bit" if asked.optimizer == "adamw" else asked.optimizer,
    )  # fmt: skip
    assert (advice == "") == (tuning(of, smallest).total > room)
