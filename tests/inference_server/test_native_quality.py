"""What rounding costs: SmolLM2 in bfloat16 and in 4 bits beside float32, and its texts beside transformers'."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.serving import PROMPTS, TOKENS
from inference_server.engines import kernels
from inference_server.engines.native import linear
from tests.support.native import CPU, Parts

pytestmark = pytest.mark.server

TEXT = """\
The city of Lisbon lies where the river Tagus meets the Atlantic Ocean. People have lived there for more than three
thousand years, and in the fifteenth century ships left its harbour for Africa, India and Brazil. In 1755 an
earthquake, a flood and a fire destroyed most of it within a day. The king's minister had it built again with wide
streets and with houses that could withstand another one. Today about half a million people live there, and visitors
come for its light, its music and its food. The old yellow trams still climb the hills, and from the top one can see
both bridges."""


def tokens_of(directory: Path, text: str) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(directory)(text)["input_ids"]
    return ids


def perplexity(logits: torch.Tensor, tokens: list[int]) -> float:
    own = logits[:-1].log_softmax(dim=-1)[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    return float(own.mean().neg().exp())


@pytest.fixture(scope="module")
def wanted(smollm2: Path) -> dict[torch.dtype, torch.Tensor]:
    """transformers' logits for TEXT."""
    tokens = torch.tensor([tokens_of(smollm2, TEXT)])
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype)
        with torch.no_grad():
            found[dtype] = model(tokens).logits[0].float()
    return found


@pytest.mark.parametrize("compiled", [True, False], ids=["our kernels", "torch's operations"])
@pytest.mark.parametrize(("int4", "agreement"), [(False, 0.97), (True, 0.95)], ids=["bfloat16", "4 bits"])
def test_rounding_changes_few_choices_and_no_quality(
    smollm2: Path, wanted: dict[torch.dtype, torch.Tensor], int4: bool, agreement: float, compiled: bool
) -> None:
    """The bounds are those of docs/reference/performance.md; in 4 bits so few tokens at a time that they are used."""
    tokens = tokens_of(smollm2, TEXT)
    parts = Parts.of_directory(smollm2, dtype=torch.bfloat16, int4=int4, compiled=compiled)
    found = parts.logits(tokens, chunk=linear.INT4_ROWS)
    same = found.argmax(dim=-1) == wanted[torch.bfloat16].argmax(dim=-1)
    assert float(same.float().mean()) >= agreement
    assert perplexity(found, tokens) <= 1.02 * perplexity(wanted[torch.float32], tokens)


def behind(logits: torch.Tensor, chosen: list[int]) -> list[float]:
    """How far each chosen token is behind the likeliest, in steps of bfloat16 (which has eight bits) at that height."""
    best = logits.max(dim=-1).values
    gaps = best - logits[torch.arange(len(chosen)), torch.tensor(chosen)]
    return [
        gap / 2 ** (math.floor(math.log2(abs(top))) - 7) for gap, top in zip(gaps.tolist(), best.tolist(), strict=True)
    ]


@pytest.mark.parametrize("compiled", [True, False], ids=["our kernels", "torch's operations"])
def test_greedy_texts_of_the_bench_are_transformers_own_but_where_it_rounds_to_a_tie(
    smollm2: Path, compiled: bool
) -> None:
    """Token for token, each after the same text: after a tie both go on differently, and both are right. What a tie is,
    transformers says in either number: bfloat16 is where it rounds, float32 is what it rounds."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    turns = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    prompts = [tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"] for turn in turns]
    texts = Parts.of_directory(smollm2, dtype=torch.bfloat16, compiled=compiled).generated(prompts, new=TOKENS)
    steps: dict[torch.dtype, list[float]] = {torch.bfloat16: [], torch.float32: []}
    for dtype, found in steps.items():
        model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype)
        for prompt, text in zip(prompts, texts, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + text[:-1]]), logits_to_keep=len(text)).logits[0].float()
            found += behind(logits, text)
    nearest = [min(both) for both in zip(*steps.values(), strict=True)]
    assert len(nearest) == len(PROMPTS) * TOKENS
    assert max(nearest) <= 2
    assert sum(step == 0 for step in steps[torch.bfloat16]) >= 0.98 * len(nearest)


def test_four_bits_are_the_nearest_of_sixteen_steps_between_a_groups_least_and_most() -> None:
    torch.manual_seed(3)
    weight = torch.randn(6, 64).bfloat16()
    integers, scales = linear.int4(weight)
    scale, middle = scales.float().transpose(0, 1).repeat_interleave(linear.INT4_GROUP, dim=1).unbind(-1)
    error = ((integers - 8) * scale + middle - weight.float()).abs()
    assert set(integers.unique().tolist()) <= set(range(16))
    assert (error <= scale * 0.6 + 0.02).all()


@pytest.mark.parametrize("compiled", [True, False], ids=["our kernels", "torch's operations"])
def test_few_tokens_take_the_four_bits_and_many_do_not(compiled: bool) -> None:
    torch.manual_seed(3)
    weight, bias = torch.randn(32, 64).bfloat16(), torch.randn(32).bfloat16()
    found = kernels.find(CPU, torch.bfloat16) if compiled else None
    own, exact = linear.packed_twice(weight, bias, own=found), linear.packed(weight, bias)
    rows = linear.INT4_ROWS_OF_OURS if found and found.has_products else linear.INT4_ROWS
    few, many = torch.randn(rows, 64).bfloat16(), torch.randn(rows + 1, 64).bfloat16()
    assert torch.equal(own(many), exact(many))
    assert not torch.equal(own(few), exact(few))
    # A sixteenth of a group's span, which is about 4, is the step: errors of 0.65 in the middle of 64 products.
    torch.testing.assert_close(own(few), exact(few), atol=3.0, rtol=0.0)


@pytest.mark.parametrize(("rows", "filled"), [(1, 1), (16, 16), (17, 24), (64, 64), (65, 96), (512, 512)])
def test_products_have_few_heights_and_their_own_rows(rows: int, filled: int) -> None:
    assert linear.filled(rows) == filled
    weight, x = torch.randn(32, 64).bfloat16(), torch.randn(rows, 64).bfloat16()
    product = linear.packed(weight, None)(x)
    assert product.shape == (rows, 32)
    torch.testing.assert_close(product, functional.linear(x, weight), rtol=2**-7, atol=2**-6)
