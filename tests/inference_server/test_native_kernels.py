"""The compiled steps between the products are the torch operations that stand in for them, number for number."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engines import kernels
from inference_server.engines.kernels import Kernels
from inference_server.engines.native import linear, rope
from inference_server.engines.native.architecture import Architecture
from inference_server.engines.native.attention import Attention, Group
from inference_server.engines.native.kv_cache import BLOCK, KVCache
from inference_server.engines.native.turning import Turning
from scripts import kernels as compiling
from tests.support.native import CPU

TOKENS = (1, 3, 70)
"""Few, and enough for more than one thread."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Compiled for this test, from the source as it is."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here, so the engine uses torch's operations")
    into = tmp_path_factory.mktemp("kernels")
    assert compiling.main(into=into) == 0
    assert not list(into.glob("*.[0-9]*"))
    found = kernels.find(CPU, torch.bfloat16, library=into / "libkernels.so")
    if found is None:
        pytest.skip("this processor has no AVX-512, so the engine computes in float32")
    return found


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("size", [576, 40])
def test_a_norm_adds_and_rounds_as_torch_does(own: Kernels, tokens: int, size: int) -> None:
    hidden, added, gain = numbers(tokens, size), numbers(tokens, size) * 3, numbers(size)
    summed = hidden + added
    expected = functional.rms_norm(summed, (size,), None, 1e-5) * gain
    assert torch.equal(own.add_norm(hidden, added, gain, eps=1e-5), expected)
    assert torch.equal(hidden, summed)
    assert torch.equal(own.add_norm(hidden, None, gain, eps=1e-5), expected)
    assert torch.equal(hidden, summed)


def test_a_norm_takes_heads_that_lie_apart(own: Kernels) -> None:
    heads, gain = numbers(5, 6, 32)[:, :4], numbers(32)
    expected = functional.rms_norm(heads, (32,), None, 1e-6) * gain
    assert torch.equal(own.add_norm(heads, None, gain, eps=1e-6), expected)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("size", [1536, 24])
def test_gates_are_those_of_torch_also_at_the_ends_of_the_numbers(own: Kernels, tokens: int, size: int) -> None:
    gate_up = numbers(tokens, 2 * size) * 4
    gate_up[0, :8] = torch.tensor([0.0, -0.0, 300.0, -300.0, math.inf, 3e38, -3e38, math.nan]).bfloat16()
    gate, up = gate_up.chunk(2, dim=-1)
    torch.testing.assert_close(own.gated(gate_up), functional.silu(gate) * up, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_heads_turn_as_by_torch_and_lie_in_the_cache(own: Kernels, tokens: int, share: float) -> None:
    heads, kv_heads, d = 6, 2, 32
    parameters = {"rope_theta": 10000.0, "partial_rotary_factor": share}
    turning = Turning(
        rope.read(parameters, head_dim=d, context=512), heads=heads + 2 * kv_heads, still=kv_heads, head_dim=d,
        device=CPU, spread=True,
    )  # fmt: skip
    turns = turning.at(torch.arange(tokens) + 5, None, dtype=torch.bfloat16)
    fused, slots = numbers(tokens, heads + 2 * kv_heads, d), torch.randperm(128)[:tokens]
    expected, cache = turns.apply(fused.clone()), numbers(2 * kv_heads, 128, d)
    stored = cache.clone().index_copy_(1, slots, expected[:, heads:].transpose(0, 1))
    own.turn_and_store(fused, turns.cosines, turns.sines, cache, slots)
    assert torch.equal(fused, expected)
    assert torch.equal(cache, stored)


def architecture(heads: int, kv_heads: int, d: int) -> Architecture:
    plain = rope.read({}, head_dim=d, context=512)
    return Architecture(
        family="llama", layers=1, hidden=heads * d, heads=heads, kv_heads=kv_heads, head_dim=d, intermediate=1,
        vocabulary=1, context=512, norm_eps=1e-5, windows=(0,), rope=plain, window_rope=None, tied=True, qk_norm=False,
        activation="silu", scale=d**-0.5, eos=(),
    )  # fmt: skip


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(9, 3, 64), (4, 4, 96), (8, 1, 128), (2, 1, 48)])
@pytest.mark.parametrize("lengths", [[1], [400], [16, 17, 300, 1, 129]])
@pytest.mark.parametrize("most", [1, 70])
def test_queries_see_what_they_see_by_torch(
    own: Kernels, most: int, lengths: list[int], heads: int, kv_heads: int, d: int, window: int
) -> None:
    """The last tokens of each request, ``most`` at most. Both are within the rounding of probabilities and sums, two
    steps of bfloat16, of attention in float32."""
    of, counts = architecture(heads, kv_heads, d), [min(length, most) for length in lengths]
    blocks = [-(-length // BLOCK) for length in lengths]
    cache = KVCache(layers=1, kv_heads=kv_heads, head_dim=d, blocks=sum(blocks), dtype=torch.bfloat16, device=CPU)
    cache.write(0, torch.arange(sum(blocks) * BLOCK), numbers(sum(blocks) * BLOCK, 2 * kv_heads, d))
    wide = KVCache(layers=1, kv_heads=kv_heads, head_dim=d, blocks=sum(blocks), dtype=torch.float32, device=CPU)
    wide[0].copy_(cache[0])
    queries, tables = numbers(sum(counts), heads + 2 * kv_heads, d)[:, :heads] * 3, torch.randperm(sum(blocks))
    own_tables = tables.split(blocks)
    together = attending(lengths, counts, torch.nn.utils.rnn.pad_sequence(list(own_tables), batch_first=True))
    by_kernel = Attention(together, cache, of, window=window, dtype=torch.bfloat16, kernels=own)(0, queries)
    alone = [attending([n], [c], t[None]) for n, c, t in zip(lengths, counts, own_tables, strict=True)]
    exact = [
        Attention(each, wide, of, window=window, dtype=torch.float32)(0, rows.float())
        for each, rows in zip(alone, queries.split(counts), strict=True)
    ]
    torch.testing.assert_close(by_kernel.float(), torch.cat(exact), rtol=2**-7, atol=2**-8)


@pytest.mark.parametrize(("d", "ours"), [(512, True), (528, False), (40, False)])
def test_heads_that_the_kernels_have_no_room_for_are_torchs(own: Kernels, d: int, ours: bool) -> None:
    """528 is a multiple of 16, and one more than attention.c holds."""
    of, together = architecture(2, 1, d), attending([20], [1], torch.arange(2)[None])
    cache = KVCache(layers=1, kv_heads=1, head_dim=d, blocks=2, dtype=torch.bfloat16, device=CPU)
    cache.write(0, torch.arange(2 * BLOCK), numbers(2 * BLOCK, 2, d))
    queries = numbers(1, 2, d)
    attention = Attention(together, cache, of, window=0, dtype=torch.bfloat16, kernels=own)
    by_torch = Attention(together, cache, of, window=0, dtype=torch.bfloat16)
    assert (attention._kernels is own) is ours
    torch.testing.assert_close(attention(0, queries), by_torch(0, queries), rtol=2**-7, atol=2**-8)


def attending(lengths: list[int], counts: list[int], tables: Tensor) -> Group:
    """The last ``counts`` tokens of requests of ``lengths``, for kernels, which know of no padding, or one request."""
    positions = [torch.arange(length - count, length) for length, count in zip(lengths, counts, strict=True)]
    padded = torch.nn.utils.rnn.pad_sequence(positions, batch_first=True)
    return Group(0, sum(counts), positions=padded, tables=tables, counts=torch.tensor(counts))


@pytest.mark.parametrize("tokens", [*range(1, 14), 33, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(576, 96), (32, 32), (1536, 576)])
def test_a_product_in_four_bits_is_that_of_the_weights_it_stands_for(
    own: Kernels, tokens: int, inputs: int, outputs: int
) -> None:
    """Sums in float32, in another order, and rounded once to bfloat16, which has eight bits."""
    if not own.has_products:
        pytest.skip("this processor has no products of bfloat16, so torch's product in 4 bits is used")
    integers, scales = linear.int4(numbers(outputs, inputs))
    scale, middle = scales.float().transpose(0, 1).repeat_interleave(linear.INT4_GROUP, dim=1).unbind(-1)
    weight, x = (integers - 8) * scale + middle, numbers(tokens, inputs)
    found = own.four_bits(x, kernels.tiled(integers, scales))
    torch.testing.assert_close(found.float(), x.float() @ weight.T, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("tokens", [*range(1, 8), 33])
@pytest.mark.parametrize(("inputs", "outputs"), [(576, 128), (34, 50)])
def test_the_last_product_leaves_its_sums_in_float32(own: Kernels, tokens: int, inputs: int, outputs: int) -> None:
    if not own.has_products:
        pytest.skip("this processor has no products of bfloat16, so oneDNN's product is used")
    weight, x = numbers(outputs, inputs), numbers(tokens, inputs)
    found = linear.last(weight, own=own)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x.float() @ weight.float().T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_numbers_are_torchs(own: Kernels, dtype: torch.dtype) -> None:
    assert kernels.find(CPU, dtype) is None


def test_without_a_compiler_nothing_is_made_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiling.main(into=tmp_path) == 0
    assert "no C compiler" in capsys.readouterr().out
    assert kernels.find(CPU, torch.bfloat16, library=tmp_path / "libkernels.so") is None


def test_a_source_that_does_not_compile_is_an_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    (tmp_path / "wrong.c").write_text("int f(void) { return }")
    (tmp_path / "libkernels.so").write_text("before")
    assert compiling.main(tmp_path) != 0
    assert (tmp_path / "libkernels.so").read_text() == "before"


def test_a_library_of_another_version_is_not_called(
    own: Kernels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in kernels.SOURCE.glob("*.[ch]"):
        shutil.copy(path, tmp_path)
    with (tmp_path / "numbers.h").open("a") as header:
        header.write("/* changed */\n")
    assert compiling.main(tmp_path) == 0
    assert kernels.find(CPU, torch.bfloat16, library=tmp_path / "libkernels.so") is None
    assert "make kernels" in caplog.text


def test_a_library_that_cannot_be_loaded_is_said_and_torch_computes(
    own: Kernels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of another processor, or of a compiler's image with a newer C library."""
    library = tmp_path / "libkernels.so"
    library.write_bytes(b"\x7fELF of another machine")
    assert kernels.find(CPU, torch.bfloat16, library=library) is None
    assert "cannot be loaded and is not used" in caplog.text


def test_room_for_float32_is_of_that_size_whatever_another_thread_has_made_the_default(own: Kernels) -> None:
    """transformers changes the default of the whole process while it loads a model: half the room was written past."""
    if not own.has_products:
        pytest.skip("this processor has no products of bfloat16, so torch's are used")
    weight, x = numbers(128, 64), numbers(64, 64)
    last, four = linear.last(weight, own=own), kernels.tiled(*linear.int4(weight))
    wanted = last(x), own.four_bits(x, four)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = last(x), own.four_bits(x, four)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0].dtype == torch.float32
    assert all(map(torch.equal, found, wanted))
