"""Any model of the Hub: out of its config and the headers of its files, for whoever may see it, never the weights."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from presets.architecture import Architecture, Experts, LatentAttention
from presets.catalog import load_catalog
from presets.fit import smallest
from presets.hub import config as configs
from presets.hub.reader import Broken, Gated, Hub, HubError, Missing, Unreachable, Unsupported
from tests.support.faulty_http import Fault, Site, serve
from tests.support.hub import COMMIT, Repository, header, refused, tensors

CATALOG = load_catalog()
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
    "max_position_embeddings": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip


def a_llama(id: str = "org/tiny-llama", **more: Any) -> Repository:
    """Llama 3.2 1B under another name."""
    return Repository(id, LLAMA, {"model.safetensors": header(tensors(LLAMA))}, **more)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site()) as running:
        yield running


def hub(site: Site, tmp_path: Path, **more: Any) -> Hub:
    return Hub(cache=tmp_path, endpoint=site.url, **more)


def test_a_model_is_described_without_its_weights(site: Site, tmp_path: Path) -> None:
    a_llama(info={"cardData": {"license": "llama3.2"}}, more=("chat_template.jinja",)).put_on(site)
    found, known = hub(site, tmp_path).model("org/tiny-llama"), CATALOG.model("llama-3.2-1b-instruct")
    assert found.architecture == known.architecture
    assert found.parameters == known.parameters
    assert found.file_bytes == pytest.approx(known.file_bytes, rel=1e-4)  # and the header itself
    assert (found.name, found.license, found.chat, found.access) == ("org/tiny-llama", "llama3.2", True, "public")
    assert smallest(found, 1, catalog=CATALOG) == smallest(known, 1, catalog=CATALOG)
    read = sum(len(site.files[path]) for _, path, _ in site.asked("GET", "resolve"))
    assert read < 100_000 < found.file_bytes


@pytest.mark.parametrize(
    ("more", "tunable"),
    [
        ({}, True),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, False),
        (
            {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 8}
            | {"num_experts_per_tok": 2},
            False,
        ),
    ],
    ids=["dense", "packed", "experts"],
)
def test_what_is_dense_and_not_packed_can_be_tuned(
    site: Site, tmp_path: Path, more: dict[str, Any], tunable: bool
) -> None:
    Repository("org/own", {**LLAMA, **more}, {"model.safetensors": header(tensors(LLAMA))}).put_on(site)
    assert hub(site, tmp_path).model("org/own").tuning is tunable


def test_shards_are_added_up(site: Site, tmp_path: Path) -> None:
    names = list(tensors(LLAMA).items())
    parts = {f"model-0000{n}-of-00003.safetensors": header(dict(names[n - 1 :: 3])) for n in (1, 2, 3)}
    Repository("org/sharded", LLAMA, parts, more=("consolidated.safetensors", "original/x.pth")).put_on(site)
    assert hub(site, tmp_path).model("org/sharded").parameters == CATALOG.model("llama-3.2-1b-instruct").parameters


def test_a_header_beyond_the_first_request_is_read_whole(site: Site, tmp_path: Path) -> None:
    many = {f"model.layers.{n}.mlp.experts.{n}.a.rather.long.name.of.a.tensor.weight": [2, 2] for n in range(2000)}
    begin, size = header(many)
    assert len(begin) > 200_000
    Repository("org/many", LLAMA, {"model.safetensors": (begin, size)}).put_on(site)
    assert hub(site, tmp_path).model("org/many").parameters == 8000


def test_an_answer_is_kept_and_a_commit_for_ever(site: Site, tmp_path: Path) -> None:
    a_llama().put_on(site)
    for revision in ("main", "main", COMMIT, COMMIT):
        hub(site, tmp_path).model("org/tiny-llama", revision=revision)
    assert len(site.asked("GET", "/api/models")) == 2


@pytest.mark.security
def test_what_one_holder_may_see_another_does_not_get_out_of_the_cache(site: Site, tmp_path: Path) -> None:
    a_llama(gated="manual").put_on(site)
    assert hub(site, tmp_path, token="hf_allowed").model("org/tiny-llama").gated
    assert site.asked("GET", "/api/models")[0][2]["authorization"] == "Bearer hf_allowed"
    site.faults.append(refused(401, "GatedRepo"))
    with pytest.raises(Gated):
        hub(site, tmp_path).model("org/tiny-llama")
    assert "hf_allowed" not in "".join(str(path) for path in tmp_path.rglob("*"))


def test_without_the_hub_what_was_known_is_known(site: Site, tmp_path: Path) -> None:
    a_llama().put_on(site)
    first = hub(site, tmp_path).model("org/tiny-llama")
    (kept,) = (tmp_path / "models").rglob("main.json")
    os.utime(kept, (1, 1))
    site.faults.append(refused(503))
    assert hub(site, tmp_path).model("org/tiny-llama") == first
    kept.write_text("{")
    assert hub(site, tmp_path).model("org/tiny-llama") == first


REFUSED: dict[str, tuple[Fault, type[HubError], str]] = {
    "gated": (refused(401, "GatedRepo"), Gated, "org/tiny-llama is gated: agree to its terms on the Hub and give a"),
    "gated 403": (refused(403, "GatedRepo"), Gated, "is gated: agree to its terms"),
    "missing": (refused(404, "RepoNotFound"), Missing, "the Hub has no org/tiny-llama, or it is private"),
    "missing as a stranger sees it": (refused(401), Missing, "the Hub has no org/tiny-llama, or it is private"),
    "no revision": (refused(404, "RevisionNotFound"), Missing, "org/tiny-llama has no revision 'main'"),
    "bad token": (
        refused(401, "", "Invalid credentials in Authorization header"),
        Gated,
        "the Hub does not know the token in HF_TOKEN",
    ),
    "forbidden": (refused(403), Gated, "the token in HF_TOKEN may not read org/tiny-llama"),
    "too many": (refused(429), Unreachable, "the Hub cannot answer now (HTTP 429)"),
    "down": (refused(502), Unreachable, "the Hub cannot answer now (HTTP 502)"),
    "teapot": (refused(418), Broken, "the Hub refuses to tell of org/tiny-llama (HTTP 418)"),
    "cut off": (Fault(path="/api/models", cut=20), Unreachable, "the Hub cannot be reached"),
    "no JSON": (Fault(status=200, path="/api/models", body=b"<html>"), Broken, "has a form that is not known"),
    "a list": (Fault(status=200, path="/api/models", body=b"[]"), Broken, "has a form that is not known"),
    "weights gated": (refused(403, "GatedRepo", path="safetensors"), Gated, "is gated"),
    "weights gone": (refused(404, "EntryNotFound", path="safetensors"), Missing, "the Hub has no org/tiny-llama"),
}


@pytest.mark.badinput
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_is_one_line_that_says_what_to_do(site: Site, tmp_path: Path, case: str) -> None:
    fault, kind, told = REFUSED[case]
    a_llama().put_on(site)
    site.faults.append(fault)
    with pytest.raises(kind) as caught:
        hub(site, tmp_path).model("org/tiny-llama")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


GOOD = header(tensors(LLAMA))
BROKEN: dict[str, tuple[Repository, type[HubError], str]] = {
    "pickles alone": (Repository("o/n", LLAMA, more=("pytorch_model.bin",)), Unsupported, "pickled weights alone"),
    "no weights": (Repository("o/n", LLAMA), Unsupported, "o/n has no safetensors files"),
    "not a decoder": (
        Repository("o/n", LLAMA | {"architectures": ["BertForMaskedLM"]}, {"model.safetensors": GOOD}),
        Unsupported,
        "BertForMaskedLM: only causal language models",
    ),
    "config no JSON": (Repository("o/n", b"{", {"model.safetensors": GOOD}), Broken, "config.json of o/n is no JSON"),
    "config a list": (Repository("o/n", b"[]", {"model.safetensors": GOOD}), Broken, "holds no settings by name"),
    "config of a megabyte": (
        Repository("o/n", b" " * (1 << 20) + b"{}", {"model.safetensors": GOOD}),
        Broken,
        "has 1048578 bytes",
    ),
    "no layers": (
        Repository("o/n", {k: v for k, v in LLAMA.items() if k != "num_hidden_layers"}, {"model.safetensors": GOOD}),
        Unsupported,
        "config.json has no num_hidden_layers",
    ),
    "negative layers": (
        Repository("o/n", LLAMA | {"num_hidden_layers": -1}, {"model.safetensors": GOOD}),
        Unsupported,
        "num_hidden_layers is -1",
    ),
    "layers in words": (
        Repository("o/n", LLAMA | {"num_hidden_layers": "16"}, {"model.safetensors": GOOD}),
        Unsupported,
        "num_hidden_layers is '16'",
    ),
    "no heads": (
        Repository("o/n", LLAMA | {"num_attention_heads": 0}, {"model.safetensors": GOOD}),
        Unsupported,
        "heads: Input should be greater than 0",
    ),
    "a header that lies": (
        Repository("o/n", LLAMA, {"model.safetensors": (GOOD[0], 1000)}),
        Broken,
        "has 1000 bytes, its header speaks of",
    ),
    "a header of 100 MB": (
        Repository("o/n", LLAMA, {"model.safetensors": (struct.pack("<Q", 100 << 20) + b"{}", 200 << 20)}),
        Broken,
        "header that cannot be read",
    ),
    "a header cut off": (
        Repository("o/n", LLAMA, {"model.safetensors": (GOOD[0][:500], GOOD[1])}),
        Broken,
        "header that cannot be read",
    ),
    "a header of nothing": (
        Repository("o/n", LLAMA, {"model.safetensors": (b"", GOOD[1])}),
        Broken,
        "",
    ),
    "a header that is no JSON": (
        Repository("o/n", LLAMA, {"model.safetensors": (struct.pack("<Q", 4) + b"text", GOOD[1])}),
        Broken,
        "header that cannot be read",
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_model_is_said_to_be_none(site: Site, tmp_path: Path, case: str) -> None:
    repository, kind, told = BROKEN[case]
    repository.put_on(site)
    with pytest.raises(kind) as caught:
        hub(site, tmp_path).model("o/n")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.badinput
@pytest.mark.parametrize("id", ["phi-4", "a/b/c", "../etc/passwd", "a/..", "/x", "x/", "a b/c", "a/b?x=1", "é/x"])
def test_what_is_no_id_is_not_asked_for(site: Site, tmp_path: Path, id: str) -> None:
    with pytest.raises(Missing, match="is no id of the Hub: write org/name"):
        hub(site, tmp_path).model(id)
    assert site.seen == []


def test_nobody_there_is_said_in_one_line(tmp_path: Path) -> None:
    with serve(Site()) as site:
        gone = site.url
    with pytest.raises(Unreachable, match="the Hub cannot be reached"):
        Hub(cache=tmp_path, endpoint=gone).model("org/tiny-llama")


# The numbers of config.json as these families write them, and what the catalogue has of the same models.
CONFIGS: dict[str, dict[str, Any]] = {
    "falcon-7b": {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32,
        "num_attention_heads": 71, "multi_query": True, "new_decoder_architecture": False, "vocab_size": 65024,
    },
    "falcon-40b": {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "hidden_size": 8192, "num_hidden_layers": 60,
        "num_attention_heads": 128, "num_kv_heads": 8, "multi_query": True, "new_decoder_architecture": True,
        "vocab_size": 65024,
    },
    "gemma-3-27b-it": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32,
            "num_hidden_layers": 62, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024,
            "vocab_size": 262208, "max_position_embeddings": 131072,
        },
    },
    "gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880, "head_dim": 64,
        "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8,
        "num_local_experts": 32, "experts_per_token": 4, "num_experts_per_tok": 4, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "vocab_size": 201088,
        "max_position_embeddings": 131072, "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "mxfp4"},
    },
    "qwen3-30b-a3b": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048, "head_dim": 128,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "num_attention_heads": 32, "num_hidden_layers": 48, "num_key_value_heads": 4, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": False, "sliding_window": None,
    },
    "qwen2.5-7b-instruct": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        "max_position_embeddings": 32768, "sliding_window": 131072, "use_sliding_window": False,
        "tie_word_embeddings": False,
    },
    "deepseek-r1": {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "num_attention_heads": 128,
        "num_hidden_layers": 61, "num_key_value_heads": 128, "vocab_size": 129280, "max_position_embeddings": 163840,
        "tie_word_embeddings": False, "quantization_config": {"quant_method": "fp8"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_comes_to_the_row_of_the_catalogue(name: str) -> None:
    row, config = CATALOG.model(name), CONFIGS[name]
    expected = row.architecture
    found = configs.architecture(config)
    told = {each: getattr(found, each) for each in Architecture.__dataclass_fields__ if each != "other_parameters"}
    assert told == {each: getattr(expected, each) for each in told}
    assert configs.quantisation(config) == row.quantisation
    assert isinstance(found.experts, Experts | None)
    assert isinstance(found.latent, LatentAttention | None)


def test_the_reader_loads_huggingface_hub_only_when_it_asks() -> None:
    code = "import sys, presets.hub.reader; print('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_is_kept_is_readable_as_what_it_is(site: Site, tmp_path: Path) -> None:
    a_llama().put_on(site)
    hub(site, tmp_path).model("org/tiny-llama")
    (kept,) = (tmp_path / "models").rglob("main.json")
    assert json.loads(kept.read_text())["parameters"] == CATALOG.model("llama-3.2-1b-instruct").parameters
