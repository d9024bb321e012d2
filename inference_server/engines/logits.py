"""What the OpenAI API wants of a row of logits and transformers has no option for: penalties, biases, probabilities."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inference_server.engines.engine import TokenLogprob
from inference_server.engines.grammar import Grammar

OWN = (
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "ignore_eos",
    "top_logprobs",
    "prompt_logprobs",
    "json_schema",
    "grammar",
)
"""Options that are handled here and are none of transformers' GenerationConfig."""

ROWS = 32
"""Of a large vocabulary 32 rows in float32 are 32 MB."""


def punish(logits: Tensor, output: Sequence[int], *, frequency: float, presence: float) -> None:
    """Takes from tokens that are in the output, in place: for each time, and for being there (OpenAI's definition)."""
    if output and (frequency or presence):
        tokens, counts = torch.tensor(output, device=logits.device).unique(return_counts=True)
        logits[tokens] -= frequency * counts + presence


def told(logprobs: Tensor, token: int, *, likeliest: int) -> TokenLogprob:
    """What a row of logarithms of probabilities says about the token that was chosen."""
    values, tokens = logprobs.topk(likeliest)
    return TokenLogprob(float(logprobs[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))


def told_of(logits: Tensor, tokens: Sequence[int], *, likeliest: int) -> Iterator[TokenLogprob]:
    """What rows of logits [tokens, vocabulary] say about the token that followed each; a few rows at a time, for their
    probabilities are of float32."""
    for start in range(0, len(tokens), ROWS):
        rows, own = logits[start : start + ROWS].float().log_softmax(dim=-1), tokens[start : start + ROWS]
        values, found = rows.topk(likeliest)
        said = rows.gather(1, torch.tensor(own, device=rows.device)[:, None])[:, 0]
        ranks = (rows > said[:, None]).sum(dim=1) + 1
        lists = (each.tolist() for each in (said, found, values, ranks))
        for each, number, value, rank in zip(*lists, strict=True):
            yield TokenLogprob(each, tuple(zip(number, value, strict=True)), rank)


class OneSequence:
    """A logits processor of transformers for the options of OWN, for a single sequence.

    It comes after transformers' penalties and before temperature and cut-offs, and the probabilities that it tells are
    those it gets.
    """

    supports_continuous_batching = False

    def __init__(self, options: Mapping[str, Any], *, prompt: int, grammar: Grammar | None = None) -> None:
        self._options, self._prompt, self._grammar = options, prompt, grammar
        self._before: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores [1, vocabulary] for the next token."""
        options = self._options
        if "top_logprobs" in options:
            self._before = scores[0].log_softmax(dim=-1)
        scores = scores.clone()
        punish(
            scores[0],
            input_ids[0, self._prompt :].tolist(),
            frequency=options.get("frequency_penalty", 0.0),
            presence=options.get("presence_penalty", 0.0),
        )
        for token, bias in options.get("logit_bias", {}).items():
            scores[0, token] += bias
        if self._grammar:
            if input_ids.shape[1] > self._prompt:
                self._grammar.accept(int(input_ids[0, -1]))
            self._grammar.forbid(scores[0])
        return scores

    def told(self, token: int) -> tuple[TokenLogprob, ...]:
        """About the token that was chosen from the last scores; nothing if nobody asked."""
        if self._before is None:
            return ()
        return (told(self._before, token, likeliest=self._options["top_logprobs"]),)
