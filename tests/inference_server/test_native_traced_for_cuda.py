"""The native engine's steps as a card would get them: followed operation by operation without one.

What is proven: every tensor of a recorded step is on the card from its input to its logits, no operation's shape hangs
on a number that only the card knows, nothing waits for the card, nothing takes the address of a tensor. Not that it
computes the right numbers there, nor how quickly.
"""

import logging
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from inference_server.engines import draws, memory, placement
from inference_server.engines.decode_graphs import DecodeGraphs, shapes
from inference_server.engines.native import architecture, served, weights
from inference_server.engines.native.architecture import Architecture
from inference_server.engines.native.kv_cache import BlockAllocator, KVCache
from inference_server.engines.native.model import Model
from inference_server.engines.native.runner import Runner, _grouped
from inference_server.engines.native.scheduler import Scheduler, Sequence, Work
from inference_server.engines.sampler import Chooser, Sampling
from inference_server.engines.transfer import moved
from inference_server.settings import Settings
from tests.inference_server.test_native_families import family
from tests.support.fake_cuda import CUDA, Devices, fake_cuda
from tests.support.native import GREEDY, Parts

__all__ = ["family"]
pytestmark = pytest.mark.server
ON_CARD = frozenset({"cuda"})
SAMPLED = [Chooser(each) for each in (Sampling(seed=1), Sampling(seed=2, top_p=0.5), Sampling(seed=3, top_k=5))]
BLOCKS, DTYPE = 32, torch.bfloat16


def on_card(directory: Path) -> tuple[Architecture, Model]:
    of = architecture.read(directory)
    sizes = {"layers": of.layers, "kv_heads": of.kv_heads, "head_dim": of.head_dim, "blocks": BLOCKS + 1}
    cache = KVCache(**sizes, dtype=DTYPE, device=CUDA)
    return of, Model(of, weights.load(directory, of, dtype=DTYPE, device=CUDA), cache)


def work_of(lengths: list[int], *, adapter: int = 0) -> tuple[BlockAllocator, list[Work]]:
    """Prompts of so many tokens, scheduled."""
    allocator = BlockAllocator(BLOCKS)
    scheduler = Scheduler(allocator, token_budget=99, most_running=8)
    for length in lengths:
        scheduler.add(Sequence([5] * length, 8, Chooser(GREEDY), adapter=adapter))
    return allocator, scheduler.schedule()


def test_a_recorded_step_stays_on_the_card_and_waits_for_nothing(family: tuple[Path, Any]) -> None:
    with fake_cuda(), torch.inference_mode():
        of, model = on_card(family[0])
        sizes = list(shapes(most=4, context=of.context, blocks=BLOCKS))
        graphs = DecodeGraphs(model, sizes, of, spare=BLOCKS, dtype=DTYPE, device=CUDA)
        for shape in sizes:
            with Devices() as devices:
                graphs._step(shape)
            assert len(devices.seen) > 20 * of.layers
            assert [each for each in devices.seen if each[1] != ON_CARD] == []
        with pytest.raises(DataDependentOutputException):
            graphs._logits.argmax().item()  # so that an operation which waits would have been seen


def test_any_other_step_goes_to_the_card_in_one_copy_and_waits_for_its_tokens_alone(family: tuple[Path, Any]) -> None:
    allocator, work = work_of([3, 40, 19])
    with fake_cuda(), torch.inference_mode():
        _, model = on_card(family[0])
        runner = Runner(model, allocator, device=CUDA)
        groups = _grouped(work)
        with Devices() as copied:
            batch = runner._batch(groups)
        with Devices() as computed:
            logits = model.forward(batch)
        assert len([name for name, devices in copied.seen if devices == {"cpu", "cuda"}]) == 1
        assert [each for each in computed.seen if each[1] != ON_CARD] == []
        assert (tuple(logits.shape), logits.device) == ((3, logits.shape[1]), CUDA)
        with Devices() as chosen, pytest.raises(DataDependentOutputException):
            draws.choose(logits, SAMPLED, lambda _: ([], []))
        between = [name for name, devices in chosen.seen if devices == {"cpu", "cuda"}]
        assert len(between) == 3, "settings of each of the three kinds; tokens come back in one"
        assert "tolist" not in "".join(name for name, _ in chosen.seen[:-1])


def test_what_is_copied_at_once_is_what_it_was(tiny_model: Path) -> None:
    allocator, work = work_of([3, 20, 5], adapter=1)
    mix = torch.tensor([[0.0, 0.0], [0.5, 1.0]])
    parts = Parts.of_directory(tiny_model)
    batch = Runner(parts.model, allocator, device=torch.device("cpu"), adapters=mix)._batch(_grouped(work))
    there = moved(batch, torch.device("cpu"))
    pairs: list[tuple[Any, Any]] = [(batch, there), *zip(batch.groups, there.groups, strict=True)]
    compared = 0
    for one, other in pairs:
        for field in fields(one):
            before, after = getattr(one, field.name), getattr(other, field.name)
            if isinstance(before, torch.Tensor):
                assert torch.equal(before, after)
                assert before.dtype == after.dtype
                compared += 1
            elif field.name != "groups":
                assert before == after
    assert compared == 5 + 5 * len(batch.groups) - 2 * sum(group.padded is None for group in batch.groups)


class Recording:
    """In the place of torch.cuda.graph: what is within it is called, and kept nowhere."""

    def __init__(self, _: object, **options: Any) -> None:
        assert set(options) == {"pool", "stream", "capture_error_mode"}

    def __enter__(self) -> None:
        """As torch's."""

    def __exit__(self, *_: object) -> None:
        """As torch's."""


@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_a_model_is_loaded_onto_the_card_as_far_as_its_first_number(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, graphs: Literal["auto", "off"]
) -> None:
    """All of loading and recording but what reads numbers: the comparison of the first replay is where it ends."""
    card = {
        "is_available": lambda: True, "device_count": lambda: 1, "set_device": lambda _: None,
        "get_device_capability": lambda _: (9, 0), "get_arch_list": lambda: ["sm_75", "sm_90"],
        "mem_get_info": lambda _: (10**10, 2 * 10**10), "empty_cache": lambda: None,
        "graph_pool_handle": lambda: (0, 1), "Stream": object, "graph": Recording,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
    }  # fmt: skip
    settings = Settings(pretrained_model_name_or_path=str(tiny_model), cuda_graphs=graphs)
    with fake_cuda(), caplog.at_level(logging.INFO):
        for name, value in card.items():  # within, for torch asks whether there is a card that it has to start
            monkeypatch.setattr(torch.cuda, name, value)
        model = served.NativeModel.load(settings, say=lambda _: None)
        asked = model.sequence([5, 6, 7], 3, Chooser(GREEDY))
        model.add(asked)
        with pytest.raises(DataDependentOutputException):
            model.step()
    cache = model._runner._model._cache
    assert (cache[0].device, cache[0].dtype, cache.blocks) == (CUDA, torch.bfloat16, 256 + (graphs == "auto"))
    assert (model._scheduler.allocator.blocks, model.served.context_length, model._runner._graphs) == (256, 64, None)
    said = [each.message for each in caplog.records if "CUDA graphs" in each.message]
    assert said == (
        ["no CUDA graphs, every step is computed operation by operation: aten._local_scalar_dense.default"]
        if graphs == "auto"
        else []
    )


@pytest.mark.parametrize(
    ("free", "blocks"), [(10**12, 64 * 4), (10 * 2048, 8)], ids=["for all who run", "what there is"]
)
def test_on_a_card_the_cache_is_for_all_who_run(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, free: int, blocks: int
) -> None:
    """Its memory is taken at once and is nobody else's; on processors one whole context is enough to begin with."""
    given_back: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(True))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    of = architecture.read(tiny_model)
    assert of.kv_values_per_token * 2 * 16 == 2048
    assert served._blocks(of, torch.bfloat16, CUDA) == blocks
    assert (memory.free(CUDA), given_back) == (free, [True, True])


@pytest.mark.parametrize(
    ("device_map", "card", "wanted"),
    [("auto", True, "cuda:0"), ("cuda", True, "cuda:0"), ("cuda:1", True, "cuda:1"), ("cpu", True, "cpu"),
     ("auto", False, "cpu"), ("cuda:1", False, "cpu")],
)  # fmt: skip
def test_the_card_is_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, device_map: str, card: bool, wanted: str
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert placement.device(Settings(device_map=device_map)) == torch.device(wanted)
    assert chosen == ([torch.device(wanted)] if "cuda" in wanted else [])
