"""From logits to tokens, request by request: greedy rows together, sampled rows by their own settings and seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from inference_server.engines.engine import TokenLogprob
from inference_server.engines.grammar import Grammar
from inference_server.engines.logits import punish, told, told_of

LIKELIEST = 256
"""Tokens among which a cut-off by probability usually falls, so that not all need to be sorted."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request wants its tokens chosen; the names and neutral values are those of vLLM and transformers."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    """New tokens before the text may end."""
    ends: tuple[int, ...] = ()
    """The tokens that end a text."""
    seed: int | None = None
    top_logprobs: int | None = None
    """How many alternatives to tell for each token; None tells nothing."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens."""

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def bends_logits(self) -> bool:
        """Whether the logits change before the choice."""
        return bool(
            self.repetition_penalty != 1.0
            or self.frequency_penalty
            or self.presence_penalty
            or self.logit_bias
            or self.min_tokens
        )


@dataclass(slots=True)
class Chooser:
    """One request's settings with its own random numbers, so that mates in the batch do not change its text."""

    sampling: Sampling
    grammar: Grammar | None = None
    told: tuple[TokenLogprob, ...] = ()
    """About the last token, if asked for."""
    of_prompt: list[TokenLogprob] = field(default_factory=list)
    """About the prompt's tokens but for the first, as far as they are read, if asked for."""

    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        seed = self.sampling.seed
        self._random = Random(None if seed is None else seed % 2**64)  # Random takes -1 for 1

    @property
    def plain(self) -> bool:
        """Whether the token is the likeliest, and nothing else is asked."""
        own = self.sampling
        return own.greedy and not own.bends_logits and own.top_logprobs is None and self.grammar is None

    def chance(self) -> float:
        """The next number between 0 and 1, one for each token that is drawn."""
        return self._random.random()

    def choose(
        self, logits: Tensor, *, prompt: Sequence[int], output: Sequence[int], chance: float | None = None
    ) -> int:
        """A token for ``logits`` [vocabulary] (float32, changed in place), given the tokens so far.

        ``chance``: the number to draw it by, if that has been taken already.
        """
        before = None if self.sampling.top_logprobs is None else logits.log_softmax(dim=0)
        token = self._choose(logits, prompt=prompt, output=output, chance=chance)
        if self.grammar:
            self.grammar.accept(token)
        if before is not None and self.sampling.top_logprobs is not None:
            self.told = (told(before, token, likeliest=self.sampling.top_logprobs),)
        return token

    def read(self, logits: Tensor, tokens: Sequence[int]) -> None:
        """Takes in the prompt's next ``tokens``; ``logits`` [tokens, vocabulary] are those before each."""
        self.of_prompt += told_of(logits, tokens, likeliest=self.sampling.prompt_logprobs or 0)

    def _choose(self, logits: Tensor, *, prompt: Sequence[int], output: Sequence[int], chance: float | None) -> int:
        if self.sampling.bends_logits:
            _bend(logits, self.sampling, prompt=prompt, output=output)
        if self.grammar:
            self.grammar.forbid(logits)
        if self.sampling.greedy:
            return int(logits.argmax())
        kept, tokens = _kept(logits / self.sampling.temperature, self.sampling)
        below = kept.cumsum(dim=0, dtype=torch.float64)
        number = self.chance() if chance is None else chance
        place = int(torch.searchsorted(below, number * below[-1], right=True))
        return int(tokens[min(place, len(tokens) - 1)])


def _bend(logits: Tensor, sampling: Sampling, *, prompt: Sequence[int], output: Sequence[int]) -> None:
    """Penalties and biases. Repetition (Keskar 2019) looks at prompt and output, the others (OpenAI) at the output."""
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *output}), dtype=torch.long)
        at = logits[seen]
        logits[seen] = torch.where(at > 0, at / sampling.repetition_penalty, at * sampling.repetition_penalty)
    punish(logits, output, frequency=sampling.frequency_penalty, presence=sampling.presence_penalty)
    for token, bias in sampling.logit_bias:
        logits[token] += bias
    if len(output) < sampling.min_tokens:
        logits[list(sampling.ends)] = -math.inf


def _kept(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities and tokens that are left after top-k, typical-p, top-p and min-p, most likely first.

    Without cut-offs all, in their order; with those by probability the likeliest few first, and all if they do not do.
    """
    size = logits.shape[0]
    if 0 < sampling.top_k < size:
        values, tokens = logits.topk(sampling.top_k)
        return _cut(values, tokens, sampling)[:2]
    if sampling.typical_p == sampling.top_p == 1.0 and sampling.min_p == 0.0:
        return logits.softmax(dim=0), torch.arange(size)
    if sampling.typical_p == 1.0 and size > LIKELIEST:
        values, tokens = logits.topk(LIKELIEST)
        probabilities, tokens, all_kept = _cut(values, tokens, sampling, total=logits.logsumexp(dim=0))
        if not all_kept:
            return probabilities, tokens
    values, tokens = logits.sort(descending=True)
    return _cut(values, tokens, sampling)[:2]


def _cut(
    values: Tensor, tokens: Tensor, sampling: Sampling, *, total: Tensor | None = None
) -> tuple[Tensor, Tensor, bool]:
    """Probabilities with those cut off at 0, their tokens, and whether none was.

    ``values`` are sorted; ``total`` is the logarithm of what they sum to with those that are not here.
    """
    probabilities = (values - (values.logsumexp(dim=0) if total is None else total)).exp()
    keep = torch.ones_like(probabilities, dtype=torch.bool)
    if sampling.typical_p < 1.0:
        keep &= _typical(probabilities, sampling.typical_p)
    if sampling.top_p < 1.0:
        keep &= probabilities.cumsum(dim=0) - probabilities < sampling.top_p
    if sampling.min_p > 0.0:
        keep &= probabilities >= sampling.min_p * probabilities[0]
    keep[0] |= ~keep.any()
    return probabilities * keep, tokens, bool(keep[-1])


def _typical(probabilities: Tensor, mass: float) -> Tensor:
    """The tokens nearest the entropy, up to ``mass`` (Meister 2022)."""
    information = -probabilities.clamp_min(math.exp(-80)).log()
    order = (information - (probabilities * information).sum()).abs().argsort()
    ordered = probabilities[order]
    keep = torch.zeros_like(probabilities, dtype=torch.bool)
    keep[order[ordered.cumsum(dim=0) - ordered < mass]] = True
    return keep
