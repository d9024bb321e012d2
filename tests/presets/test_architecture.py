"""Parameters and KV cache by arithmetic, against transformers' own models and published figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.architecture import Architecture, Experts, active_parameters, kv_elements, parameters
from presets.catalog import load_catalog

CATALOG = load_catalog()
PUBLISHED_KV_BYTES = {
    # "Insights into DeepSeek-V3" (arXiv:2505.09343), table 1: bytes a token in bfloat16
    "deepseek-r1": 70_272,
    "qwen2.5-72b-instruct": 327_680,
    "llama-3.1-405b-instruct": 516_096,
    # KAITO 0.12's catalogue
    "phi-4-mini-instruct": 131_072,
}
PUBLISHED_ACTIVE = {
    # model cards, in 10⁹ parameters
    "mixtral-8x7b-instruct-v0.1": 12.9,
    "qwen3-235b-a22b": 22,
    "deepseek-r1": 37,
    "deepseek-v2-lite-chat": 2.4,
    "gpt-oss-20b": 3.6,
    "gpt-oss-120b": 5.1,
    "phi-3.5-moe-instruct": 6.6,
}
PUBLISHED_ATTENTION = {"falcon-7b": "MQA", "llama-2-7b": "MHA", "llama-2-70b": "GQA", "deepseek-r1": "MLA"}


@pytest.mark.parametrize("name", PUBLISHED_KV_BYTES)
def test_the_kv_cache_of_a_token_is_as_published(name: str) -> None:
    assert 2 * kv_elements(CATALOG.model(name).architecture, 1) == PUBLISHED_KV_BYTES[name]


@pytest.mark.parametrize("name", PUBLISHED_ACTIVE)
def test_the_active_parameters_of_a_mixture_are_as_published(name: str) -> None:
    assert active_parameters(CATALOG.model(name).architecture) / 1e9 == pytest.approx(PUBLISHED_ACTIVE[name], rel=0.03)


@pytest.mark.parametrize("name", PUBLISHED_ATTENTION)
def test_the_kind_of_attention_follows_from_the_heads(name: str) -> None:
    assert CATALOG.model(name).architecture.attention == PUBLISHED_ATTENTION[name]


def test_a_dense_model_computes_with_all_but_one_embedding() -> None:
    a = CATALOG.model("llama-3.1-8b-instruct").architecture
    assert parameters(a) - active_parameters(a) == a.hidden * a.vocabulary
    tied = CATALOG.model("llama-3.2-1b-instruct").architecture
    assert parameters(tied) == active_parameters(tied)


def test_a_window_bounds_what_its_layers_keep() -> None:
    a = CATALOG.model("gemma-3-27b-it").architecture
    each = 2 * a.kv_heads * a.head_size
    assert kv_elements(a, 1024) == each * a.layers * 1024
    assert kv_elements(a, 100_000) == each * (10 * 100_000 + 52 * 1024)


TINY = {
    "llama": dict(layers=3, hidden=64, heads=4, kv_heads=2, head_size=16, intermediate=96, vocabulary=500, context=64),
    "llama tied": dict(
        layers=2, hidden=32, heads=4, kv_heads=4, head_size=8, intermediate=96, vocabulary=300, context=64, tied=True
    ),
    "mixtral": dict(
        layers=2, hidden=32, heads=4, kv_heads=2, head_size=8, intermediate=48, vocabulary=300, context=64,
        experts=Experts(count=4, per_token=2, intermediate=48),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TINY)
def test_the_count_is_that_of_transformers_but_for_the_norms(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `server` is not installed")
    a = Architecture(**TINY[kind])  # type: ignore[arg-type]
    shared = dict(
        num_hidden_layers=a.layers, hidden_size=a.hidden, num_attention_heads=a.heads, num_key_value_heads=a.kv_heads,
        head_dim=a.head_size, intermediate_size=a.intermediate, vocab_size=a.vocabulary, tie_word_embeddings=a.tied,
    )  # fmt: skip
    if a.experts:
        config = transformers.MixtralConfig(**shared, num_local_experts=4, num_experts_per_tok=2)
        model = transformers.MixtralForCausalLM(config)
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shared))
    norms = (2 * a.layers + 1) * a.hidden
    assert sum(each.numel() for each in model.parameters()) == parameters(a) + norms


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_the_cache_is_as_large_as_that_of_transformers(tokens: int) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `server` is not installed")
    torch = pytest.importorskip("torch")
    a = Architecture(**TINY["llama"])  # type: ignore[arg-type]
    config = transformers.LlamaConfig(
        num_hidden_layers=a.layers, hidden_size=a.hidden, num_attention_heads=a.heads, num_key_value_heads=a.kv_heads,
        head_dim=a.head_size, intermediate_size=a.intermediate, vocab_size=a.vocabulary,
    )  # fmt: skip
    with torch.inference_mode():
        seen = transformers.LlamaForCausalLM(config)(torch.zeros((1, tokens), dtype=torch.long), use_cache=True)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in seen.past_key_values.layers)
    assert kept == kv_elements(a, tokens)


@pytest.mark.properties
@given(name=st.sampled_from(sorted(CATALOG.models)), tokens=st.integers(0, 200_000), more=st.integers(0, 10_000))
def test_more_tokens_never_need_less_cache(name: str, tokens: int, more: int) -> None:
    a = CATALOG.models[name].architecture
    assert kv_elements(a, tokens) <= kv_elements(a, tokens + more)
