"""Runs scheduled work: builds the batch, computes it, and chooses the next tokens."""

from collections.abc import Iterable
from itertools import accumulate

import torch
from torch import Tensor

from inference_server.engines import draws
from inference_server.engines.decode_graphs import DecodeGraphs
from inference_server.engines.native.attention import Group
from inference_server.engines.native.kv_cache import BLOCK, BlockAllocator
from inference_server.engines.native.model import Batch, Model
from inference_server.engines.native.scheduler import Sequence, Work
from inference_server.engines.transfer import moved

SHORT = 16
"""Blocks up to which requests of different lengths attend together: padding costs less than another call."""


class Runner:
    """One step after the other over a model; knows no queue.

    ``adapters`` [choices, adapters] says how strongly each adapter counts for a sequence's choice; row 0 is none.
    ``graphs`` computes what it has a graph for.
    """

    def __init__(
        self,
        model: Model,
        allocator: BlockAllocator,
        *,
        device: torch.device,
        adapters: Tensor | None = None,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._model, self._allocator, self._device, self._adapters = model, allocator, device, adapters
        self._graphs = graphs

    def run(self, work: list[Work]) -> list[tuple[Sequence, int]]:
        """Computes ``work`` and answers each sequence that got a new token, with that token."""
        with torch.inference_mode():
            logits = self._graphs.logits(work) if self._graphs else None
            if logits is None:
                groups = _grouped(work)
                logits, work = self._model.forward(self._batch(groups)), [w for group in groups for w in group]
            last = [w.sequence for w in work if w.last]
            choosers = [sequence.chooser for sequence in last]
            tokens = draws.choose(logits[: len(last)], choosers, lambda row: (last[row].prompt, last[row].output))
            _tell([w for w in work if w.asked], logits[len(last) :])
        for w in work:
            w.sequence.table.computed += w.tokens
            self._allocator.register(w.sequence.table, w.sequence.tokens)
        for sequence, token in zip(last, tokens, strict=True):
            sequence.tokens.append(token)
        return list(zip(last, tokens, strict=True))

    def _batch(self, groups: list[list[Work]]) -> Batch:
        work = [w for group in groups for w in group]
        spans = [range(w.sequence.table.computed, w.sequence.table.computed + w.tokens) for w in work]
        tables = [w.sequence.table.blocks for w in work]
        last = [end - 1 for end in accumulate(w.tokens for w in work)]
        batch = Batch(
            tokens=self._tensor(
                t for w, s in zip(work, spans, strict=True) for t in w.sequence.tokens[s.start : s.stop]
            ),
            positions=self._tensor(position for span in spans for position in span),
            slots=self._tensor(
                b[p // BLOCK] * BLOCK + p % BLOCK for b, s in zip(tables, spans, strict=True) for p in s
            ),
            rows=self._tensor(
                [
                    *(row for w, row in zip(work, last, strict=True) if w.last),
                    *(row + 1 - s.stop + at for w, row, s in zip(work, last, spans, strict=True) for at in w.asked),
                ]
            ),
            groups=tuple(self._groups(groups)),
            variants=self._each(work, [w.sequence.rope_variant for w in work]),
            mix=self._mix(work),
        )
        return batch if self._device.type == "cpu" else moved(batch, self._device)

    def _groups(self, groups: list[list[Work]]) -> Iterable[Group]:
        start = 0
        for group in groups:
            lengths = [w.tokens for w in group]
            firsts = [w.sequence.table.computed for w in group]
            width, end = max(lengths), start + sum(lengths)
            blocks = -(-max(f + n for f, n in zip(firsts, lengths, strict=True)) // BLOCK)
            positions = [[*range(f, f + n), *[0] * (width - n)] for f, n in zip(firsts, lengths, strict=True)]
            tables = [w.sequence.table.blocks[:blocks] for w in group]
            padded = real = None
            if min(lengths) < width:
                before = [sum(lengths[:number]) for number in range(len(group))]
                padded = self._tensor(
                    b + min(at, n - 1) for b, n in zip(before, lengths, strict=True) for at in range(width)
                )
                real = self._tensor(number * width + at for number, n in enumerate(lengths) for at in range(n))
            yield Group(
                start=start,
                end=end,
                positions=torch.tensor(positions),
                tables=torch.tensor([t + [0] * (blocks - len(t)) for t in tables]),
                counts=self._tensor(lengths),
                padded=padded,
                real=real,
            )
            start = end

    def _mix(self, work: list[Work]) -> Tensor | None:
        rows = self._each(work, [w.sequence.adapter for w in work])
        return None if rows is None or self._adapters is None else self._adapters.index_select(0, rows)

    def _each(self, work: list[Work], values: list[int]) -> Tensor | None:
        """One value of each sequence for each of its tokens; None if all are 0."""
        if not any(values):
            return None
        return self._tensor(value for w, value in zip(work, values, strict=True) for _ in range(w.tokens))

    def _tensor(self, values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long)


def _grouped(work: list[Work]) -> list[list[Work]]:
    """Works of about the same number of tokens, now and before, decodes first."""
    groups: dict[tuple[int, int], list[Work]] = {}
    for w in work:
        blocks = -(-(w.sequence.table.computed + w.tokens) // BLOCK)
        size = (w.tokens - 1).bit_length(), (max(blocks, SHORT) - 1).bit_length()
        groups.setdefault(size, []).append(w)
    return [groups[size] for size in sorted(groups)]


def _tell(asked: list[Work], rows: Tensor) -> None:
    """Each sequence what the rows say of its prompt."""
    for w in asked:
        own, rows = rows.split((len(w.asked), len(rows) - len(w.asked)))
        w.sequence.chooser.read(own, w.sequence.tokens[w.asked.start + 1 : w.asked.stop + 1])
