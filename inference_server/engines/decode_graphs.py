"""Steps in which every request decodes one token, recorded once for each size and then replayed: CUDA graphs.

On a card the operations of a small step are done before Python has called them. A graph is called once, but it computes
the same shapes at the same addresses each time: requests are padded to one of a few numbers, their tables of blocks to
one of a few widths, and what goes in and out lies in buffers that stay. vLLM, SGLang and gpt-fast do it so.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from inference_server.engines import memory
from inference_server.engines.native.architecture import Architecture
from inference_server.engines.native.attention import Group
from inference_server.engines.native.kv_cache import BLOCK
from inference_server.engines.native.model import Batch, Model
from inference_server.engines.native.scheduler import Work

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
"""Numbers of requests."""
LEAST_BLOCKS = 16
"""The narrowest tables; each next one is twice as wide."""
GATHERED_TOKENS = 65536
"""Requests times tokens that the largest graph sees: above, reading them takes longer than calling the operations."""
SECONDS = 60.0
"""Recording ends after so long; what is not recorded by then is computed operation by operation."""
DIFFERENCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Share of the largest logit by which a replay may differ: the same kernels may add in another order."""

Step = Callable[[], None]
Record = Callable[[Step], Step]
"""From a step over buffers to its replay; may raise RuntimeError, as torch does."""


class NotRecorded(Exception):
    """Steps cannot be replayed here, or not truly; the message says why."""


class NoRoom(NotRecorded):
    """The card has not the memory for a step of this size."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A size of step: so many requests, each with a table of so many blocks."""

    requests: int
    blocks: int

    @property
    def numbers(self) -> int:
        """How many integers say what it computes: token, position, slot and rope variant of each, and the tables."""
        return self.requests * (4 + self.blocks)


@dataclass(frozen=True, slots=True)
class Row:
    """One request in a step: its token goes to ``position`` of the blocks in its table."""

    token: int
    position: int
    variant: int
    table: Sequence[int]


def shapes(*, most: int, context: int, blocks: int, gathered: int = GATHERED_TOKENS) -> Iterator[Shape]:
    """Those of at most ``most`` requests of ``context`` tokens in a cache of so many blocks, the largest first."""
    widths, needed = [LEAST_BLOCKS], -(-context // BLOCK)
    while widths[-1] < needed:
        widths.append(2 * widths[-1])
    for width in reversed(widths):
        for size in reversed(SIZES):
            if size <= min(most, blocks) and size * width * BLOCK <= gathered:
                yield Shape(size, width)


class DecodeGraphs:
    """Steps of ``model`` as graphs. ``spare`` is a block of the cache after all those that requests may have: what pads
    a batch is written there, and its logits are never read. Runs under ``torch.inference_mode``."""

    def __init__(
        self,
        model: Model,
        shapes: Sequence[Shape],
        of: Architecture,
        *,
        spare: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._model, self._spare = model, spare
        self._vocabulary, self._variants = of.vocabulary, bool(of.rope.short)
        self._shapes = sorted(shapes, key=lambda shape: (shape.requests * shape.blocks, shape.blocks))
        self._replays: dict[Shape, Step] = {}
        numbers, most = (max((getattr(s, each) for s in shapes), default=0) for each in ("numbers", "requests"))
        self._told = torch.zeros(numbers, dtype=torch.long, pin_memory=device.type == "cuda")
        self._input = torch.zeros(numbers, dtype=torch.long, device=device)
        self._rows, self._counts = torch.arange(most, device=device), torch.ones_like(self._input[:most])
        self._logits = torch.zeros(most, of.vocabulary, dtype=dtype, device=device)

    def __len__(self) -> int:
        return len(self._replays)

    def logits(self, work: Sequence[Work]) -> Tensor | None:
        """[requests, vocabulary] in the order of ``work``, until the next call; None if no graph computes it."""
        if not all(w.tokens == 1 and w.last and not w.asked and not w.sequence.adapter for w in work):
            return None
        tables = [w.sequence.table for w in work]
        blocks = max(table.computed // BLOCK + 1 for table in tables)
        fitting = (s for s in self._replays if s.requests >= len(work) and s.blocks >= blocks)
        shape = min(fitting, key=lambda s: (s.requests * s.blocks, s.blocks), default=None)
        if shape is None:
            return None
        rows = [
            Row(w.sequence.tokens[t.computed], t.computed, w.sequence.rope_variant, t.blocks[:blocks])
            for w, t in zip(work, tables, strict=True)
        ]
        self._tell(shape, rows)
        self._replays[shape]()
        return self._logits[: len(work)]

    def record(self, record: Record, *, seconds: float = SECONDS) -> None:
        """Every size that there is time and room for, the largest first: the others take their memory again.

        Raises NotRecorded if one cannot be recorded, or answers otherwise than its operations one by one.
        """
        end = time.monotonic() + seconds
        for shape in reversed(self._shapes):
            if time.monotonic() > end:
                log.warning("only %d of %d sizes of a step are recorded", len(self), len(self._shapes))
                return
            try:
                self._replays[shape] = self._recorded(shape, record)
            except NoRoom as full:
                log.warning("steps of %d requests with %d blocks: %s", shape.requests, shape.blocks, full)

    def _recorded(self, shape: Shape, record: Record) -> Step:
        """The replay of one size. Computed before, for the libraries' first calls and to compare."""
        step, found = partial(self._step, shape), self._logits[: shape.requests]
        with _told_as_ours():
            self._tell(shape, self._made_up(shape))
            step()
            wanted = found.clone()
            replay = record(step)
            found.zero_()
            replay()
            largest, difference = float(wanted.abs().max()), float((found - wanted).abs().max())
        if not difference <= DIFFERENCE[wanted.dtype] * largest:  # also where it is no number
            raise NotRecorded(
                f"a replayed step of {shape.requests} requests differs by {difference:.3g} in logits to {largest:.3g}"
            )
        return replay

    def _made_up(self, shape: Shape) -> list[Row]:
        """Requests as long as they can be, each with a last block of its own."""
        return [
            Row(
                token=(7919 * number + 1) % self._vocabulary,
                position=shape.blocks * BLOCK - 1 - number % BLOCK,
                variant=number % 2 if self._variants else 0,
                table=[(number + block + 1) % self._spare for block in range(shape.blocks)],
            )
            for number in range(shape.requests)
        ]

    def _tell(self, shape: Shape, rows: Sequence[Row]) -> None:
        """Into the input, in one copy. The one before has been made: the step's tokens have been read since."""
        nobody = Row(0, 0, 0, (self._spare,))
        padded = [*rows, *[nobody] * (shape.requests - len(rows))]
        numbers = [row.token for row in padded]
        numbers += [row.position for row in padded]
        numbers += [row.table[row.position // BLOCK] * BLOCK + row.position % BLOCK for row in padded]
        numbers += [row.variant for row in padded]
        for row in padded:
            numbers += [*row.table, *[self._spare] * (shape.blocks - len(row.table))]
        self._told[: shape.numbers] = torch.tensor(numbers)
        self._input[: shape.numbers].copy_(self._told[: shape.numbers], non_blocking=True)

    def _step(self, shape: Shape) -> None:
        """What is recorded: from the input to the logits, nothing else is read or waited for."""
        size, width = shape.requests, shape.blocks
        numbers = self._input[: shape.numbers].split((size, size, size, size, size * width))
        tokens, positions, slots, variants, tables = numbers
        group = Group(
            start=0,
            end=size,
            positions=positions[:, None],
            tables=tables.view(size, width),
            counts=self._counts[:size],
        )
        batch = Batch(
            tokens=tokens,
            positions=positions,
            slots=slots,
            rows=self._rows[:size],
            groups=(group,),
            variants=variants if self._variants else None,
        )
        self._logits[:size].copy_(self._model.forward(batch))


def of_cuda() -> Record:
    """By torch, all graphs in one pool of memory: only one of them runs at a time."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def record(step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            step()
        replay: Step = graph.replay
        return replay

    return record


@contextmanager
def _told_as_ours() -> Iterator[None]:
    """What CUDA or one of its libraries would not do, as NotRecorded: torch raises RuntimeError for all of it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoRoom("not enough memory") from error
    except RuntimeError as error:
        raise NotRecorded(" ".join(str(error).split())[:300]) from error


def recorded(
    model: Model,
    of: Architecture,
    *,
    most: int,
    context: int,
    spare: int,
    dtype: torch.dtype,
    device: torch.device,
    record: Record | None = None,
) -> DecodeGraphs | None:
    """Graphs for up to ``most`` requests of ``context`` tokens, by CUDA unless ``record`` is given; None, which is said
    in the log, where they cannot be recorded.

    A layer's keys and values of the largest fit four times into the memory that the cache has left.
    """
    began, left = time.monotonic(), memory.free(device)
    layer = of.kv_values_per_token // of.layers * dtype.itemsize
    sizes = list(shapes(most=most, context=context, blocks=spare, gathered=min(GATHERED_TOKENS, left // (4 * layer))))
    graphs = DecodeGraphs(model, sizes, of, spare=spare, dtype=dtype, device=device)
    try:
        with torch.inference_mode():
            graphs.record(record or of_cuda())
    except NotRecorded as error:
        log.warning("no CUDA graphs, every step is computed operation by operation: %s", error)
        return None
    taken, seconds = left - memory.free(device), time.monotonic() - began
    log.info("%d CUDA graphs of decoding steps in %.1f s, %d MiB", len(graphs), seconds, taken >> 20)
    return graphs
