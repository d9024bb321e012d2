"""The native engine's parts: pages are counted, prefixes shared, preemption and chunks change no token."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from inference_server.engines.native.kv_cache import BLOCK, BlockAllocator, NoBlocks, Table
from inference_server.engines.native.scheduler import Sequence
from inference_server.engines.sampler import Chooser, Sampling, _kept
from tests.support.native import Parts

PROMPTS = [[5 + i, 12, 14, 16 + i, 7, 22 + i] * 3 for i in range(6)]


def reference(directory: Path, new: int = 12) -> list[list[int]]:
    """What transformers' own generate makes of each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    out = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, pad_token_id=0
        )
        out.append(made[0, len(prompt) :].tolist())
    return out


@pytest.mark.parametrize(
    ("blocks", "budget"), [(64, 512), (64, 7), (8, 512)], ids=["all at once", "in chunks of seven", "preempted"]
)
def test_batching_chunks_and_preemption_change_no_token(tiny_model: Path, blocks: int, budget: int) -> None:
    parts = Parts.of_directory(tiny_model, blocks=blocks, budget=budget)
    assert parts.generated(PROMPTS, new=12) == reference(tiny_model)
    assert parts.scheduler.allocator.available == blocks


@pytest.mark.parametrize(
    ("blocks", "budget"), [(64, 512), (64, 7), (7, 40)], ids=["all at once", "in chunks of seven", "preempted"]
)
def test_what_is_told_of_prompts_is_what_transformers_computes(tiny_model: Path, blocks: int, budget: int) -> None:
    parts = Parts.of_directory(tiny_model, blocks=blocks, budget=budget)
    prompts = [*(prompt * 3 for prompt in PROMPTS[:3]), PROMPTS[0] * 3]  # the last shares every block but its last
    parts.generated(prompts[:1], new=12)
    likeliest = (3, 0, None, 1)
    choosers = [Chooser(Sampling(temperature=0.0, prompt_logprobs=most)) for most in likeliest]
    answers = parts.answered(prompts, choosers, new=12)
    assert answers == Parts.of_directory(tiny_model).generated(prompts, new=12)

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for prompt, chooser, most in zip(prompts, choosers, likeliest, strict=True):
        with torch.no_grad():
            rows = model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
        wanted = [] if most is None else [float(row[token]) for row, token in zip(rows, prompt[1:], strict=True)]
        assert [each.logprob for each in chooser.of_prompt] == pytest.approx(wanted, abs=1e-4)
        found = [[value for _, value in each.likeliest] for each in chooser.of_prompt]
        assert found == [pytest.approx(row.topk(most or 0).values.tolist(), abs=1e-4) for row in rows[: len(wanted)]]


def test_blocks_are_taken_shared_and_given_back() -> None:
    allocator = BlockAllocator(4)
    tokens = list(range(2 * BLOCK + 3))
    first = allocator.match(tokens)
    allocator.grow(first, len(tokens))
    first.computed = len(tokens)
    allocator.register(first, tokens)
    assert allocator.available == 1

    second = allocator.match([*tokens, 99])
    assert (second.blocks, second.computed) == (first.blocks[:2], 2 * BLOCK)
    with pytest.raises(NoBlocks):
        allocator.grow(second, 5 * BLOCK)
    assert second.blocks == first.blocks[:2]

    allocator.release(first)
    allocator.release(second)
    assert allocator.available == 4
    assert allocator.match(tokens).computed == 2 * BLOCK, "a prefix stays findable until its room is needed"


def test_the_longest_unused_prefix_makes_room_first() -> None:
    allocator = BlockAllocator(2)
    for start in (0, 1000):
        tokens = list(range(start, start + BLOCK))
        table = Table()
        allocator.grow(table, BLOCK)
        table.computed = BLOCK
        allocator.register(table, tokens)
        allocator.release(table)
    newcomer = Table()
    allocator.grow(newcomer, BLOCK)
    assert allocator.match([*range(BLOCK), 1]).computed == 0
    assert allocator.match([*range(1000, 1000 + BLOCK), 1]).computed == BLOCK


def test_the_text_does_not_end_before_it_may() -> None:
    chooser = Chooser(Sampling(temperature=0.0, min_tokens=2, ends=(3,)))
    logits = torch.tensor([0.0, 1.0, 2.0, 9.0])
    assert chooser.choose(logits.clone(), prompt=[0], output=[1]) == 2
    assert chooser.choose(logits.clone(), prompt=[0], output=[1, 1]) == 3


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(top_k=2), {3, 2}),
        (Sampling(top_p=0.5), {3}),
        (Sampling(min_p=0.5), {3}),
        (Sampling(temperature=0.01), {3}),
        (Sampling(logit_bias=((0, 100.0),)), {0}),
    ],
)
def test_what_is_cut_off_is_never_drawn(sampling: Sampling, allowed: set[int]) -> None:
    chooser = Chooser(sampling)
    logits = torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert {chooser.choose(logits.clone(), prompt=[], output=[]) for _ in range(100)} <= allowed


def test_a_seed_gives_the_same_text_whoever_is_in_the_batch() -> None:
    logits = torch.randn(1000)
    draws = [
        [Chooser(Sampling(seed=7)).choose(logits.clone(), prompt=[], output=[]) for _ in range(3)] for _ in range(2)
    ]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_p=0.3), lambda p: p.cumsum(0) - p < 0.3),
        (Sampling(top_p=0.999), lambda p: p.cumsum(0) - p < 0.999),
        (Sampling(min_p=0.02), lambda p: p >= 0.02 * p[0]),
        (Sampling(min_p=1e-6), lambda p: p >= 1e-6 * p[0]),
        (Sampling(), lambda p: p >= 0),
    ],
    ids=["few by mass", "many by mass", "few by the likeliest", "many by the likeliest", "all"],
)
def test_a_large_vocabulary_is_cut_where_sorting_all_of_it_would(
    sampling: Sampling, kept: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.manual_seed(1)
    logits = 3 * torch.randn(5000)
    ordered, order = logits.softmax(dim=0).sort(descending=True)
    wanted = torch.zeros(5000).index_copy(0, order, ordered * kept(ordered))
    probabilities, tokens = _kept(logits, sampling)
    found = torch.zeros(5000).index_copy(0, tokens, probabilities)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)  # the last one kept is within a rounding


def test_a_prompt_that_begins_like_an_earlier_one_is_computed_from_there_on(tiny_model: Path) -> None:
    parts = Parts.of_directory(tiny_model)
    start = [5 + number % 50 for number in range(2 * BLOCK)]
    first, second = [*start, 7, 9], [*start, 11, 13, 15]
    alone = Parts.of_directory(tiny_model).generated([second], new=6)
    parts.generated([first], new=6)
    follower = Sequence(second, 6, Chooser(Sampling(temperature=0.0)))
    parts.scheduler.add(follower)
    (work,) = parts.scheduler.schedule()
    assert work.tokens == 3, "the two blocks they share are in the cache"
    parts.scheduler.finish(follower)
    assert parts.generated([second], new=6) == alone


def test_the_youngest_waits_when_the_cache_is_full_and_who_came_first_goes_on(tiny_model: Path) -> None:
    scheduler = Parts.of_directory(tiny_model, blocks=4).scheduler
    old, young = (Sequence([start] * BLOCK, 40, Chooser(Sampling(temperature=0.0))) for start in (5, 6))
    for sequence in (old, young):
        scheduler.add(sequence)
    assert [work.sequence for work in scheduler.schedule()] == [old, young]
    for sequence in (old, young):
        sequence.table.computed = BLOCK
        sequence.tokens += [7] * (2 * BLOCK)
    assert [(work.sequence, work.tokens) for work in scheduler.schedule()] == [(old, 2 * BLOCK)]
    assert (scheduler.running, list(scheduler.waiting), young.table.blocks) == ([old], [young], [])
