"""What the bench of a card needs and a machine without one can answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import gpu, random_model
from inference_server.engines.native.served import NativeModel
from inference_server.engines.sampler import Chooser, Sampling
from inference_server.settings import Settings

pytestmark = pytest.mark.server
GIBIBYTE = 2**30


@pytest.mark.parametrize(
    ("name", "gibibytes", "gb_s"),
    [
        ("NVIDIA A100 80GB PCIe", 79, 1935),
        ("NVIDIA A100-SXM4-40GB", 39, 1555),
        ("NVIDIA H100 80GB HBM3", 79, 3350),
        ("NVIDIA H100 NVL", 93, 3900),
        ("NVIDIA H200", 139, 4800),
        ("Tesla T4", 14, 320),
        ("NVIDIA GeForce RTX 4090", 23, None),
    ],
)
def test_a_cards_bandwidth_is_the_catalogues(name: str, gibibytes: int, gb_s: int | None) -> None:
    found = gpu.bandwidth_of(name, gibibytes * GIBIBYTE)
    assert found == (gb_s * 1e9 if gb_s else None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a card, and the bench would run on it")
def test_without_a_card_the_bench_says_so_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    found: Iterator[object] = gpu.gpu()
    assert list(found) == []
    assert capsys.readouterr().out == (
        "gpu: needs a card with CUDA, and here is none (KAITO_GPU_BENCH=tiny tries it out without)\n"
    )


def test_a_random_model_has_the_size_of_its_name_and_answers(tmp_path: Path) -> None:
    read = random_model.write(tmp_path, "tiny", device=torch.device("cpu"))
    tied = 2 * 49152 * 128
    layers = 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128 + 2 * 128)
    assert read == tied + 2 * (layers + 128)
    model = NativeModel.load(
        Settings(pretrained_model_name_or_path=str(tmp_path), device_map="cpu"), say=lambda _: None
    )
    asked = model.sequence(model.served.tokenizer.encode("Hello"), 3, Chooser(Sampling(temperature=0.0)))
    model.add(asked)
    while not asked.full:
        model.step()
    assert len(asked.output) == 3


@pytest.mark.parametrize(("size", "billions"), [("1b", 1.236), ("8b", 8.030)])
def test_the_sizes_are_those_of_llama(size: str, billions: float) -> None:
    found = sum(shape.numel() for shape in random_model.shapes(random_model.config(size)).values())
    assert found / 1e9 == pytest.approx(billions, abs=0.001)
