"""Whether continuous batching answers as ``generate`` does: asked at the start, of the model that is to be served."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inference_server.engines.continuous_batch import ContinuousBatch, Row
from inference_server.engines.engine import Step
from inference_server.engines.sampler import Chooser, Sampling

TOKENS = 8
SECONDS = 300.0
GAP = {torch.float32: 1e-3, torch.float64: 1e-6}
"""How much less (in logits) a token may have than the likeliest to count as the same."""
GAP_OF_16_BITS = 0.25
"""They round to about 1/128 of logits that reach some tens."""


@dataclass(eq=False, slots=True)
class _Answer:
    """One answer of the batch as it comes."""

    tokens: list[int] = field(default_factory=list)
    error: Exception | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def put(self, step: Step | Exception) -> None:
        if isinstance(step, Exception):
            self.error = step
            self.over.set()
            return
        self.tokens.extend(step.tokens)
        if step.finish is not None:
            self.over.set()


def difference(model: Any, batch: ContinuousBatch, prompts: Sequence[Sequence[int]]) -> str:
    """What the batch answers otherwise than ``generate``, all prompts at once; nothing if they agree. A token as likely
    as the likeliest, as far as the number format can tell, is no difference."""
    with batch.paused():
        wanted = [_reference(model, prompt) for prompt in prompts]
    greedy = Sampling(temperature=0.0)
    answers = [_Answer() for _ in prompts]
    rows = [Row(p, TOKENS, Chooser(greedy), answer.put) for p, answer in zip(prompts, answers, strict=True)]
    batch.add(rows)
    if not all(answer.over.wait(SECONDS) for answer in answers):
        batch.cancel(rows)
        return f"no answer within {SECONDS:g} s"
    gap = GAP.get(model.dtype, GAP_OF_16_BITS)
    pairs = zip(answers, wanted, strict=True)
    return next((found for answer, of in pairs if (found := _other(answer, *of, gap=gap))), "")


def _other(answer: _Answer, tokens: Sequence[int], logits: Sequence[Tensor], *, gap: float) -> str:
    if answer.error is not None:
        return str(answer.error)
    both = enumerate(zip(answer.tokens, tokens, strict=True))
    place = next((at for at, (found, wanted) in both if found != wanted), None)
    if place is None or logits[place].max() - logits[place][answer.tokens[place]] <= gap:
        return ""
    return f"another token at place {place + 1}"


def _reference(model: Any, prompt: Sequence[int]) -> tuple[list[int], list[Tensor]]:
    """Tokens of ``generate`` and the logits that they were chosen from."""
    ids = torch.tensor([list(prompt)], device=model.device)
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, min_new_tokens=TOKENS,
        do_sample=False, eos_token_id=-1, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    tokens: list[int] = made.sequences[0, ids.shape[1] :].tolist()
    return tokens, [each[0].float().cpu() for each in made.logits]
