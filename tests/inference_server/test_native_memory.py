"""The native engine takes no more memory than there is, and says when that is less than the model could use."""

import logging
from pathlib import Path

import psutil
import pytest
import torch

from inference_server.engines import memory
from inference_server.engines.native.kv_cache import BLOCK
from inference_server.engines.native.served import NativeModel
from inference_server.settings import Settings
from tests.support.tiny_model import CONTEXT

LAYERS, KV_HEADS, HEAD_SIZE, FLOAT32 = 2, 2, 8, 4
"""Of the tiny model and its cache."""
CPU = torch.device("cpu")


def cgroup(directory: Path, *, limit: str, taken: int, idle: int = 0) -> None:
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{taken}\n")
    (directory / "memory.stat").write_text(f"anon 7\ninactive_file {idle}\nactive_file 9\n")


@pytest.fixture(autouse=True)
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel would tell of the container."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def test_a_containers_limit_counts(group: Path) -> None:
    cgroup(group, limit="5000", taken=2000)
    assert memory.free(CPU) == 3000
    cgroup(group, limit="5000", taken=6000)
    assert memory.free(CPU) == 0
    cgroup(group, limit="5000", taken=4000, idle=1500)
    assert memory.free(CPU) == 2500


@pytest.mark.parametrize("limit", ["max", ""])
def test_without_a_limit_the_machine_counts(group: Path, limit: str) -> None:
    if limit:
        cgroup(group, limit=limit, taken=6000)
    assert memory.free(CPU) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def loaded(directory: Path) -> NativeModel:
    return NativeModel.load(
        Settings(pretrained_model_name_or_path=str(directory), torch_dtype="float32"), say=lambda _: None
    )


def test_with_memory_enough_the_context_is_the_models(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert loaded(tiny_model).served.context_length == CONTEXT
    assert "memory is there" not in caplog.text


def test_with_little_memory_the_context_is_shorter_and_that_is_said(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, group: Path
) -> None:
    one_block = 2 * LAYERS * KV_HEADS * HEAD_SIZE * BLOCK * FLOAT32
    cgroup(group, limit=str(3 * one_block), taken=0)  # of which the cache may have four fifths
    with caplog.at_level(logging.WARNING):
        assert loaded(tiny_model).served.context_length == 2 * BLOCK
    assert f"memory is there for a context of {2 * BLOCK} tokens, not for the model's {CONTEXT}" in caplog.text
