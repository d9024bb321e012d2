"""Batches without padding: examples side by side in one row, each reading only itself."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

APART = 0.04
"""Largest relative difference of logits that is rounding. Measured with SmolLM2 in bfloat16: 0.007, and 0.14 where a
document reads its neighbour."""
NOT_LEARNT = -100
FINEST, COARSEST = 8, 64
"""Tokens to which a row is filled up at least and at most, a quarter of its length between."""
DOCUMENTS = (24, 16)
"""Tokens of the documents of the trial."""


class Batches:
    """A collator for examples of input_ids and labels.

    In one row, [1, sum of lengths], no token is computed in vain; position_ids that begin anew keep the examples
    apart. But attention over a row costs its square, so a batch of more than ``longest`` tokens is padded instead,
    [examples, length of the longest].

    ``fills``: rows are filled up to few different lengths. On processors torch makes kernels for each length and keeps
    them, in the midst of what it computes with, so that memory grows from step to step.
    """

    def __init__(self, *, pad_token_id: int, longest: int, fills: bool) -> None:
        self.side_by_side = DataCollatorForLanguageModeling(pad_token_id=pad_token_id, padding_free=True)
        self.padded = DataCollatorForLanguageModeling(pad_token_id=pad_token_id)
        self._longest, self._pad_token_id, self._fills = longest, pad_token_id, fills

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the model takes."""
        tokens = sum(len(example["input_ids"]) for example in examples)
        if tokens > self._longest:
            padded: dict[str, Any] = self.padded(examples)
            return padded
        filling = -tokens % step(tokens) if self._fills else 0
        last = [{"input_ids": [self._pad_token_id] * filling, "labels": [NOT_LEARNT] * filling}] if filling else []
        row: dict[str, Any] = self.side_by_side([*examples, *last])
        return row


def step(tokens: int) -> int:
    """Of what a row of so many is filled up to a multiple: a quarter of the power of two below it, within bounds."""
    return max(FINEST, min(COARSEST, (1 << tokens.bit_length()) // 8))


def keeps_apart(model: Any, batches: Batches) -> bool:
    """Whether two documents in one row give the logits that each gives alone: tried, for it depends on the model."""
    random = torch.Generator().manual_seed(0)
    documents = [
        torch.randint(model.config.get_text_config().vocab_size, (length,), generator=random) for length in DOCUMENTS
    ]
    row = batches.side_by_side([{"input_ids": document.tolist()} for document in documents])
    del row["labels"]
    try:
        together = _logits(model, row)
    except TypeError:  # a forward that does not take what says where documents begin
        return False
    alone = torch.cat([_logits(model, {"input_ids": document[None]}) for document in documents])
    return bool((together - alone).norm() <= APART * alone.norm())


def _logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Of the one row of the inputs: [tokens, vocabulary]."""
    given = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in inputs.items()}
    learning = model.training
    model.eval()
    try:
        with torch.no_grad():
            found: torch.Tensor = model(**given, use_cache=False).logits[0].float()
    finally:
        model.train(learning)
    return found


def shortened(rows: Dataset, *, longest: int, keep_end: bool) -> tuple[Dataset, int]:
    """Rows of at most ``longest`` tokens that have something to learn, and how many were longer."""
    long = sum(len(tokens) > longest for tokens in rows["input_ids"])
    if not long:
        return rows, 0
    kept = slice(-longest, None) if keep_end else slice(None, longest)

    def cut(row: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": row["input_ids"][kept], "labels": row["labels"][kept]}

    return rows.map(cut).filter(_teaches), long


def _teaches(row: dict[str, Any]) -> bool:
    """The loss is on what the first token is followed by."""
    return any(label != NOT_LEARNT for label in row["labels"][1:])
