"""Decoding steps that are recorded once and replayed: the tokens and logits of steps computed operation by operation.

Here on a processor, where a tape of operations stands for the graph; what the card itself does is in
test_native_on_a_card.py.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Prompt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from inference_server.engines import decode_graphs, draws
from inference_server.engines.decode_graphs import Shape, shapes
from inference_server.engines.native import runner
from inference_server.engines.native.kv_cache import BLOCK
from inference_server.engines.native.scheduler import Sequence, Work
from inference_server.engines.sampler import Chooser, Sampling
from tests.inference_server.test_native import PROMPTS
from tests.inference_server.test_native_families import LONG, family, prompt
from tests.support import tape
from tests.support.native import GREEDY, Parts
from tests.support.tiny_model import write_tiny_model

__all__ = ["family"]
pytestmark = pytest.mark.server


class Counted:
    """Records as the tape does, and counts what is replayed."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, step: decode_graphs.Step) -> decode_graphs.Step:
        replay = tape.record(step)

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


def watched(parts: Parts, prompts: list[list[int]], *, new: int) -> tuple[list[list[int]], list[Tensor]]:
    """The answers, and the logits [requests, vocabulary] of every step as they are chosen from."""
    seen: list[Tensor] = []

    def watch(logits: Tensor, choosers: Prompt[Chooser], text: Callable[[int], draws.Text]) -> list[int]:
        order = sorted(range(len(choosers)), key=lambda row: list(text(row)[0]))
        seen.append(logits[order].float().clone())
        return draws.choose(logits, choosers, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "draws", SimpleNamespace(choose=watch))
        return parts.generated(prompts, new=new), seen


def test_every_familys_logits_and_tokens_are_those_of_its_operations(family: tuple[Path, Any]) -> None:
    directory, _ = family
    prompts, new = [prompt(length, seed=length) for length in (3, LONG, 19)], 8
    eager, replayed = Parts.of_directory(directory), Parts.of_directory(directory, record=(count := Counted()))
    recorded = count.replays
    (answers, found), (expected, wanted) = (watched(parts, prompts, new=new) for parts in (replayed, eager))
    assert answers == expected
    assert count.replays - recorded == new - 1, "all but the prompts' own step"
    assert len(found) == len(wanted) == new
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("blocks", "budget"), [(64, 512), (64, 7), (8, 512)], ids=["all at once", "in chunks of seven", "preempted"]
)
def test_chunks_preemption_and_shared_prefixes_change_no_token(tiny_model: Path, blocks: int, budget: int) -> None:
    count = Counted()
    parts = Parts.of_directory(tiny_model, blocks=blocks, budget=budget, record=count)
    before = count.replays
    prompts = [*PROMPTS, PROMPTS[0] + [9]]
    eager = Parts.of_directory(tiny_model, blocks=blocks, budget=budget)
    for _ in range(2):  # the second time prompts are in the cache
        assert parts.generated(prompts, new=12) == eager.generated(prompts, new=12)
    assert count.replays > before
    assert parts.scheduler.allocator.available == blocks


def test_requests_come_and_go_between_replays(tiny_model: Path) -> None:
    """A step has one more request, or one less, than the one before: what padded it, or was there, leaves no trace."""
    alone = [Parts.of_directory(tiny_model).generated([each], new=4 + number)[0] for number, each in enumerate(PROMPTS)]
    parts = Parts.of_directory(tiny_model, record=tape.record)
    sequences = [Sequence(list(each), 4 + number, Chooser(GREEDY)) for number, each in enumerate(PROMPTS)]
    coming = list(sequences)
    while coming or parts.scheduler.running:
        if coming:
            parts.scheduler.add(coming.pop(0))
        for _ in range(2):
            if work := parts.scheduler.schedule():
                for sequence, _ in parts.runner.run(work):
                    if sequence.full:
                        parts.scheduler.finish(sequence)
    assert [sequence.output for sequence in sequences] == alone


def test_a_longer_text_goes_on_in_a_wider_graph(tmp_path: Path) -> None:
    directory, new = write_tiny_model(tmp_path, context=600, tied=False), 12
    long = [[5 + (7 * number + start) % 50 for number in range(length)] for start, length in ((0, 250), (3, 20))]
    count = Counted()
    parts = Parts.of_directory(directory, blocks=64, record=count)
    before, (narrow, wide) = count.replays, (16, 64)
    assert {shape.blocks for shape in parts.graphs._replays} == {narrow, 32, wide}  # type: ignore[union-attr]
    assert parts.generated(long, new=new) == Parts.of_directory(directory, blocks=64).generated(long, new=new)
    assert count.replays - before == new - 1


def test_sampled_and_told_tokens_are_the_same(tiny_model: Path) -> None:
    def choosers() -> list[Chooser]:
        samplings = (Sampling(seed=3, top_logprobs=2), GREEDY, Sampling(seed=4, frequency_penalty=1.0, top_p=0.9))
        return [Chooser(each) for each in samplings]

    eager, replayed = Parts.of_directory(tiny_model), Parts.of_directory(tiny_model, record=tape.record)
    ones, others = choosers(), choosers()
    assert replayed.answered(PROMPTS[:3], ones, new=12) == eager.answered(PROMPTS[:3], others, new=12)
    assert ones[0].told[0].logprob == pytest.approx(others[0].told[0].logprob, abs=1e-4)


def decoding(tokens: Prompt[int], *, computed: int, adapter: int = 0, sampling: Sampling = GREEDY) -> Work:
    """One token of a request of which so many are computed."""
    sequence = Sequence(list(tokens), 8, Chooser(sampling), adapter=adapter)
    sequence.table.computed, sequence.table.blocks = computed, list(range(1 + computed // BLOCK))
    return Work(sequence, 1)


@pytest.mark.parametrize(
    "work",
    [
        [decoding([5, 6, 7], computed=2, adapter=1)],
        [decoding([5, 6, 7], computed=1)],
        [decoding([5, 6, 7], computed=1, sampling=Sampling(temperature=0.0, prompt_logprobs=1))],
        [decoding([5, 6, 7], computed=2), Work(Sequence([5, 6], 8, Chooser(GREEDY)), 2)],
        [decoding([5, 6, 7], computed=2)] * 9,
    ],
    ids=["an adapter", "a prompt's chunk", "a prompt's probabilities", "a prompt beside", "too many"],
)
def test_what_is_not_plain_decoding_is_left_to_the_operations(tiny_model: Path, work: list[Work]) -> None:
    graphs = Parts.of_directory(tiny_model, record=tape.record).graphs
    assert graphs is not None
    with torch.inference_mode():
        assert graphs.logits(work) is None
        assert graphs.logits([decoding([5, 6, 7], computed=2)]) is not None


def test_the_sizes_are_few_and_bounded() -> None:
    assert list(shapes(most=4, context=300, blocks=99)) == [
        Shape(4, 32), Shape(2, 32), Shape(1, 32), Shape(4, 16), Shape(2, 16), Shape(1, 16),
    ]  # fmt: skip
    assert [s.requests for s in shapes(most=64, context=256, blocks=3)] == [2, 1], "each request has a block"
    found = list(shapes(most=64, context=131072, blocks=99999))
    assert len(found) == 49
    assert max(shape.requests * shape.blocks * BLOCK for shape in found) == 65536
    assert list(shapes(most=64, context=131072, blocks=99999, gathered=300)) == [Shape(1, 16)]


def test_padding_writes_to_nobodys_block(tmp_path: Path) -> None:
    parts = Parts.of_directory(write_tiny_model(tmp_path, tied=False), blocks=6, record=tape.record)
    graphs, cache = parts.graphs, parts.model._cache
    assert graphs is not None
    three = [decoding([5, 6, 7], computed=2), decoding([8, 9], computed=1), decoding([5], computed=0)]
    for number, work in enumerate(three):
        work.sequence.table.blocks = [number]
    before = cache[0].clone()
    with torch.inference_mode():
        graphs.logits(three)
    changed = (cache[0] != before).any(dim=2).any(dim=0).nonzero().flatten().tolist()
    assert changed == [2, BLOCK + 1, 2 * BLOCK, 6 * BLOCK], "the fourth row is written to the block after the last"


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with TORCH_USE"),
         "no CUDA graphs, every step is computed operation by operation: CUDA error: operation not permitted when"
         " stream is capturing Compile with TORCH_USE"),
        (torch.OutOfMemoryError("CUDA out of memory"), "steps of 8 requests with 16 blocks: not enough memory"),
    ],
    ids=["it cannot be recorded", "no memory for the largest"],
)  # fmt: skip
def test_what_cannot_be_recorded_is_said_and_computed_otherwise(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, failure: RuntimeError, said: str
) -> None:
    failures = [failure]

    def record(step: decode_graphs.Step) -> decode_graphs.Step:
        if failures:
            raise failures.pop()
        return tape.record(step)

    with caplog.at_level(logging.INFO):
        parts = Parts.of_directory(tiny_model, record=record)
    assert said in [each.message for each in caplog.records]
    assert parts.generated(PROMPTS, new=6) == Parts.of_directory(tiny_model).generated(PROMPTS, new=6)


def test_a_replay_that_answers_otherwise_is_not_used(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a graph would that was recorded over memory which something else has taken since."""
    with caplog.at_level(logging.WARNING):
        parts = Parts.of_directory(tiny_model, record=lambda _: lambda: None)
    assert parts.graphs is None
    (line,) = [each.message for each in caplog.records]
    assert line.startswith(
        "no CUDA graphs, every step is computed operation by operation: a replayed step of 8 requests"
    )


def test_recording_ends_when_its_time_is_over(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts.of_directory(tiny_model, record=tape.record)
    graphs = parts.graphs
    assert graphs is not None
    graphs._replays.clear()
    graphs.record(tape.record, seconds=-1.0)
    assert "only 0 of 4 sizes of a step are recorded" in caplog.text
    assert parts.generated(PROMPTS, new=6) == Parts.of_directory(tiny_model).generated(PROMPTS, new=6)
