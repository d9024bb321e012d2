"""An engine without a model: words are tokens, and the answer is given by the test. It keeps the protocol of Engine."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from inference_server.engines.engine import (
    EngineError,
    Generation,
    Loading,
    NoChat,
    Ready,
    ServedModel,
    State,
    Step,
    Stopped,
)

EVERY_WORD = 10_000


class WordTokenizer:
    """Each new word gets the next id; a conversation is its roles and contents, then "assistant:"."""

    vocabulary_size = 1000

    def __init__(self) -> None:
        self.words: list[str] = []

    def _id(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in text.split()]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        if messages[-1]["role"] != "user":
            raise NoChat("the last message must be the user's")
        turns = [f"{message['role']}: {message['content']}" for message in messages]
        return self.encode(" ".join([*turns, "assistant:"]))

    def decode(self, tokens: Sequence[int], *, clean_up_spaces: bool = False) -> str:
        text = " ".join(self.words[token] for token in tokens)
        return text.replace(" .", ".") if clean_up_spaces else text


class ScriptedEngine:
    """Answers every request with the same words; if ``held``, each when the test allows it. Or fails with ``error``."""

    def __init__(
        self,
        answer: str = "so it is .",
        *,
        context_length: int = 512,
        defaults: Mapping[str, Any] | None = None,
        error: EngineError | None = None,
        held: bool = False,
    ) -> None:
        self.tokenizer = WordTokenizer()
        self.model = ServedModel("scripted", self.tokenizer, context_length, defaults or {})
        self.state: State = Loading("reading the weights, 3 s")
        self._permits = asyncio.Semaphore(0 if held else EVERY_WORD)
        self.asked: list[Generation] = []
        self.given = 0
        self.abandoned = 0
        self.stopped = False
        self._answer = answer
        self._error = error

    def allow(self, words: int = EVERY_WORD) -> None:
        """Lets so many words more be given."""
        for _ in range(words):
            self._permits.release()

    def start(self) -> None:
        self.state = Ready(self.model)

    async def generate(self, request: Generation) -> AsyncGenerator[Step]:
        self.asked.append(request)
        if self._error:
            raise self._error
        words = self.tokenizer.encode(self._answer)[: request.max_new_tokens]
        try:
            for word in words:
                await self._permits.acquire()
                if self.stopped:
                    raise Stopped("the server stops")
                self.given += 1
                yield Step((word,))
            yield Step((), finish="length" if len(words) == request.max_new_tokens else "stop")
        except (asyncio.CancelledError, GeneratorExit):
            self.abandoned += 1
            raise

    def stop(self) -> None:
        self.stopped = True
        self.allow()
