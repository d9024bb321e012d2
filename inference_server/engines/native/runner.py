"""Runs scheduled work: builds the batch, computes it, and chooses the next tokens."""

import torch
from torch import Tensor

from inference_server.engines.native.kv_cache import BLOCK, BlockAllocator
from inference_server.engines.native.model import Batch, Chunk, Model
from inference_server.engines.native.scheduler import Sequence, Work


class Runner:
    """One step after the other over a model; knows no queue."""

    def __init__(self, model: Model, allocator: BlockAllocator, *, device: torch.device) -> None:
        self._model, self._allocator, self._device = model, allocator, device

    def run(self, work: list[Work]) -> list[tuple[Sequence, int]]:
        """Computes ``work`` (decodes first) and answers each sequence that got a new token, with that token."""
        with torch.inference_mode():
            logits = self._model.forward(self._batch(work))
            chosen = self._choose([w.sequence for w in work if w.last], logits)
        for w in work:
            w.sequence.table.computed += w.tokens
            self._allocator.register(w.sequence.table, w.sequence.tokens)
        for sequence, token in chosen:
            sequence.output.append(token)
        return chosen

    def _choose(self, sequences: list[Sequence], logits: Tensor) -> list[tuple[Sequence, int]]:
        """Plain greedy rows in one argmax; the rest one by one."""
        greedy: list[int] = logits.argmax(dim=-1).tolist()
        rows = logits.cpu() if logits.is_cuda else logits
        return [
            (
                sequence,
                greedy[row]
                if sequence.chooser.plain
                else sequence.chooser.choose(rows[row], prompt=sequence.prompt, output=sequence.output),
            )
            for row, sequence in enumerate(sequences)
        ]

    def _batch(self, work: list[Work]) -> Batch:
        decodes = [w for w in work if w.tokens == 1 and w.sequence.table.computed]
        prompts = [w for w in work if w not in decodes]
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        chunks: list[Chunk] = []
        for w in (*decodes, *prompts):
            first, table = w.sequence.table.computed, w.sequence.table.blocks
            span = range(first, first + w.tokens)
            start = len(tokens)
            tokens += w.sequence.tokens[first : first + w.tokens] if w.tokens > 1 else [_at(w.sequence, first)]
            positions += span
            slots += [table[p // BLOCK] * BLOCK + p % BLOCK for p in span]
            if w.last:
                rows.append(len(tokens) - 1)
            if w in prompts:
                used = table[: -(-span.stop // BLOCK)]
                chunks.append(Chunk(start, len(tokens), self._tensor([used]), span.stop))
        return Batch(
            tokens=self._tensor(tokens),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            rows=self._tensor(rows),
            decodes=len(decodes),
            tables=self._tables(decodes) if decodes else None,
            lengths=self._tensor([w.sequence.table.computed + 1 for w in decodes]) if decodes else None,
            chunks=tuple(chunks),
        )

    def _tables(self, decodes: list[Work]) -> Tensor:
        """Block tables side by side, padded to the longest; the mask hides the padding."""
        used = [w.sequence.table.blocks[: -(-(w.sequence.table.computed + 1) // BLOCK)] for w in decodes]
        longest = max(len(blocks) for blocks in used)
        return self._tensor([blocks + [0] * (longest - len(blocks)) for blocks in used])

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _at(sequence: Sequence, position: int) -> int:
    """The token at ``position``, without joining prompt and output."""
    return (
        sequence.prompt[position]
        if position < len(sequence.prompt)
        else sequence.output[position - len(sequence.prompt)]
    )
