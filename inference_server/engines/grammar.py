"""Answers that keep a JSON schema or another grammar: which tokens may come next, by llguidance."""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llguidance
import llguidance.numpy  # llguidance.torch imports torch's compiler, which takes longer than all else here
import numpy
import tokenizers
import torch
from torch import Tensor

from inference_server.engines.engine import InvalidParameters

COMPACT = {"whitespace_flexible": False}
"""A model that may write any space between two signs sometimes writes nothing else."""


class Vocabulary:
    """A model's tokens as llguidance wants them; made once, for it takes a moment."""

    def __init__(self, tokenizer: Any, *, size: int) -> None:
        self._tokens = _tokens(tokenizer, size=size)
        self._size = size

    def of_schema(self, schema: Mapping[str, Any]) -> "Grammar":
        """A fresh one for this JSON schema. Raises InvalidParameters."""
        text = json.dumps({**schema, "x-guidance": COMPACT})
        return self._made(text, llguidance.LLMatcher.grammar_from_json_schema, of="response_format: the schema")

    def of_lark(self, written: str) -> "Grammar":
        """A fresh one for this grammar, which holds the schemas of tools. Raises InvalidParameters."""
        return self._made(written, llguidance.LLMatcher.grammar_from_lark, of="tools: a schema of parameters")

    def _made(self, text: str, read: Callable[[str], str], *, of: str) -> "Grammar":
        try:
            source = read(text)
        except ValueError as error:
            raise InvalidParameters(f"{of} cannot be used: {_first_line(error)}") from error
        if problem := llguidance.LLMatcher.validate_grammar(source, self._tokens):
            raise InvalidParameters(f"{of} cannot be used: {_first_line(problem)}")
        return Grammar(llguidance.LLMatcher(self._tokens, source), size=self._size)


class Grammar:
    """Where one answer is in its schema."""

    def __init__(self, matcher: Any, *, size: int) -> None:
        self._matcher = matcher
        self._mask = llguidance.numpy.allocate_token_bitmask(1, size)
        self._size = size

    def forbid(self, logits: Tensor) -> None:
        """Takes every token that cannot come next out of ``logits`` [vocabulary], in place.

        If nothing is left, what can come was taken out before: it is the end, which a least length puts off. It comes
        all the same, for a row without any token cannot be drawn from.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask)
        bits = numpy.unpackbits(self._mask.view(numpy.uint8), bitorder="little", count=self._size)
        allowed = torch.from_numpy(bits != 0).to(logits.device)
        logits.masked_fill_(~allowed, -math.inf)
        if logits.max() == -math.inf:
            logits.masked_fill_(allowed, 0.0)

    def takes(self, tokens: Sequence[int]) -> bool:
        """Whether an answer may be these tokens, and end there."""
        taken: int = self._matcher.try_consume_tokens(list(tokens))
        return taken == len(tokens) and bool(self._matcher.is_accepting())

    def accept(self, token: int) -> None:
        """The token that came."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def _first_line(problem: object) -> str:
    return str(problem).splitlines()[0][:200]


def _tokens(tokenizer: Any, *, size: int) -> llguidance.LLTokenizer:
    """Raises ValueError for a tokenizer that is none of the tokenizers library."""
    backend = copy.copy(getattr(tokenizer, "backend_tokenizer", None))
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ValueError("not a tokenizer of the tokenizers library")
    backend.no_padding()
    backend.no_truncation()
    return llguidance.LLTokenizer(backend.to_str(), n_vocab=size, eos_token=tokenizer.eos_token_id)
