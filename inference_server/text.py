"""From tokens to text as they come: no half characters, and nothing of a stop string, also across token borders."""

from collections.abc import Callable, Sequence
from typing import Protocol

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder gives for the first bytes of a character whose others are still to come."""
CONTEXT = 8
"""Tokens of the prompt that decide how the first new token is written: some tokenizers drop a space at a start."""


class Decode(Protocol):
    """Text of token ids; see Tokenizer.decode."""

    def __call__(self, tokens: Sequence[int], /) -> str:
        """The text."""
        ...


class Writer:
    """One answer's text. ``push`` tokens, show what it returns; ``stopped`` says that a stop string came."""

    def __init__(self, decode: Decode, *, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._decode: Callable[[Sequence[int]], str] = decode
        self._tokens = list(prompt[-CONTEXT:])
        self._known, self._read = 0, len(self._tokens)
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """The text that can be shown now, which may be none."""
        if self.stopped:
            return ""
        self._tokens += tokens
        return self._pass(self._fresh())

    def finish(self) -> str:
        """What was held back and turns out to be text."""
        if self.stopped:
            return ""
        rest, self._held = self._pass(self._fresh(whole=False)) + self._held, ""
        return rest

    def _fresh(self, *, whole: bool = True) -> str:
        """Text of the tokens since the last call. Decoded together with some before, for a token's text depends on
        those; only a short window each time, so that a long answer costs no more per token than a short one."""
        before = self._decode(self._tokens[self._known : self._read])
        text = self._decode(self._tokens[self._known :])
        if len(text) <= len(before) or (whole and text.endswith(UNFINISHED)):
            return ""
        self._known, self._read = self._read, len(self._tokens)
        return text[len(before) :]

    def _pass(self, fresh: str) -> str:
        text, self._held = self._held + fresh, ""
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        held = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def overlap(text: str, stop: str) -> int:
    """How many characters at the text's end may be the beginning of ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
