"""An engine without a model: words are tokens, and the answer is given by the test. It keeps the protocol of Engine."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any

from inference_server.engines.engine import (
    NOTHING,
    EngineError,
    Generation,
    Load,
    Loading,
    NoChat,
    NoSuchVariable,
    Ready,
    ServedModel,
    State,
    Step,
    Stopped,
)
from inference_server.tools.format import NoTools, ToolFormat

EVERY_WORD = 10_000


WITHOUT_TOOLS = NoTools("words have no tools")


class WordTokenizer:
    """Each new word gets the next id; a conversation is its roles and contents, then "assistant:"."""

    vocabulary_size = 1000

    def __init__(self, tools: ToolFormat | NoTools = WITHOUT_TOOLS) -> None:
        self.tools = tools
        self.words: list[str] = []

    def _id(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in text.split()]

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = NOTHING,
    ) -> list[int]:
        if unknown := set(variables) - {"mood"}:
            raise NoSuchVariable(f"words know no {min(unknown)!r}")
        if messages[-1]["role"] not in {"user", "tool"}:
            raise NoChat("the last message must be the user's")
        turns = [f"{message['role']}: {message['content']}" for message in messages]
        named = [f"tool {tool['function']['name']}" for tool in tools]
        named += [f"mood {variables['mood']}"] if variables else []
        called = [f"called {call['function']}" for message in messages for call in message.get("tool_calls", ())]
        return self.encode(" ".join([*named, *turns, *called, "assistant:"]))

    def decode(self, tokens: Sequence[int], *, clean_up_spaces: bool = False, keep: Collection[int] = ()) -> str:
        text = " ".join(self.words[token] if token < len(self.words) else f"<{token}>" for token in tokens)
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
        tools: ToolFormat | NoTools = WITHOUT_TOOLS,
    ) -> None:
        self.tokenizer = WordTokenizer(tools)
        self.model = ServedModel("scripted", self.tokenizer, context_length, defaults or {})
        self.state: State = Loading("reading the weights, 3 s")
        self._permits = asyncio.Semaphore(0 if held else 10**9)
        self.asked: list[Generation] = []
        self.given = 0
        self.abandoned = 0
        self.stopped = False
        self.load = Load()
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
        self.load = Load(running=self.load.running + 1)
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
        finally:
            self.load = Load(running=self.load.running - 1)

    def stop(self) -> None:
        self.stopped = True
        self.allow()
