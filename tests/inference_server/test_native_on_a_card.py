"""The native engine on a real card: transformers' tokens by graphs and without, and nothing waited for in between."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference_server.engines.native.served import NativeModel
from inference_server.engines.sampler import Chooser
from inference_server.settings import Settings
from tests.inference_server.test_native_families import LONG, family, prompt
from tests.support.native import GREEDY

__all__ = ["family"]
pytestmark = [
    pytest.mark.server,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card with CUDA, and here is none (make gpu)"),
]
NEW = 8
PROMPTS = [prompt(length, seed=length) for length in (3, LONG, 19)]


@pytest.fixture(autouse=True)
def memory_is_given_back() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


def loaded(directory: Path, **settings: Any) -> NativeModel:
    named = Settings(pretrained_model_name_or_path=str(directory), torch_dtype="float32", **settings)
    return NativeModel.load(named, say=lambda _: None)


def generated(model: NativeModel) -> list[list[int]]:
    sequences = [model.sequence(each, NEW, Chooser(GREEDY)) for each in PROMPTS]
    for sequence in sequences:
        model.add(sequence)
    while model.busy:
        for sequence, _ in model.step():
            if sequence.full:
                model.finish(sequence)
    return [sequence.output for sequence in sequences]


def with_tokenizer(directory: Path, tiny_model: Path) -> Path:
    """A random model of a family has none of its own."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((tiny_model / name).read_bytes())
    return directory


def test_every_familys_tokens_are_those_of_transformers(
    family: tuple[Path, Any], tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory, model = with_tokenizer(family[0], tiny_model), family[1]
    wanted = [
        model.generate(
            torch.tensor([each]),
            attention_mask=torch.ones(1, len(each)),
            do_sample=False,
            max_new_tokens=NEW,
            pad_token_id=0,
        )[0, len(each) :].tolist()
        for each in PROMPTS
    ]
    with caplog.at_level(logging.INFO):
        found = {graphs: generated(loaded(directory, cuda_graphs=graphs)) for graphs in ("auto", "off")}
    assert found == {"auto": wanted, "off": wanted}
    said = [each.message for each in caplog.records if "CUDA graphs" in each.message]
    assert len(said) == 1, "one model has graphs, and none of its sizes failed"
    assert "CUDA graphs of decoding steps in" in said[0]


def test_a_replayed_step_waits_for_nothing_but_its_tokens(tiny_model: Path) -> None:
    model = loaded(tiny_model)
    graphs, scheduler = model._runner._graphs, model._scheduler
    assert graphs is not None
    model.add(model.sequence([5, 6, 7], NEW, Chooser(GREEDY)))
    model.step()
    work = scheduler.schedule()
    with torch.inference_mode():
        assert graphs.logits(work) is not None
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            logits = graphs.logits(work)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert logits is not None
    assert logits.isfinite().all()
