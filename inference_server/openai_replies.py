"""The OpenAI API's replies and chunks: what an answer's steps are written as. Pure."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inference_server.engines.engine import Finish, ServedModel, Step, TokenLogprob
from inference_server.openai import Asked
from inference_server.text import Writer


@dataclass(frozen=True, slots=True)
class Kind:
    """What the two kinds of completion differ in."""

    prefix: str
    whole: str
    chunk: str
    chat: bool


CHAT = Kind("chatcmpl-", "chat.completion", "chat.completion.chunk", chat=True)
COMPLETION = Kind("cmpl-", "text_completion", "text_completion", chat=False)


@dataclass(slots=True)
class Choice:
    """One answer on its way."""

    number: int
    writer: Writer
    text: str
    finish: Finish | None = None
    tokens: int = 0
    told: list[tuple[int, TokenLogprob]] = field(default_factory=list)

    def take(self, step: Step) -> str:
        """The new text of a step. ``finish`` says whether the answer is complete."""
        self.tokens += len(step.tokens)
        self.told += zip(step.tokens, step.logprobs, strict=False)
        new = self.writer.push(step.tokens)
        if step.finish is not None:
            new += self.writer.finish()
            self.finish = step.finish
        if self.writer.stopped:
            self.finish = "stop"
        self.text += new
        return new


class Reply:
    """One request's reply, as a whole or in chunks."""

    def __init__(self, asked: Asked, kind: Kind, *, model: ServedModel) -> None:
        self._asked, self._kind, self._tokenizer = asked, kind, model.tokenizer
        self._head = {"id": f"{kind.prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        self.choices = [
            Choice(number, Writer(model.tokenizer.decode, prompt=generation.prompt, stops=asked.stops), echo)
            for number, (generation, echo) in enumerate(zip(asked.generations, asked.echoes, strict=True))
        ]

    def whole(self) -> dict[str, Any]:
        """The reply when all is there."""
        choices = [
            {
                "index": choice.number,
                **self._text("message", choice.text),
                "logprobs": self._logprobs(choice, since=0),
                "finish_reason": choice.finish,
            }
            for choice in self.choices
        ]
        return {**self._head, "object": self._kind.whole, "choices": choices, "usage": self._usage()}

    def opening(self) -> list[dict[str, Any]]:
        """The chunks before any token: who speaks, or the echoed prompt."""
        if self._kind.chat:
            return [self._chunk(choice, {"delta": {"role": "assistant", "content": ""}}) for choice in self.choices]
        echoes = zip(self.choices, self._asked.echoes, strict=True)
        return [self._chunk(choice, {"text": echo}) for choice, echo in echoes if echo]

    def taken(self, choice: Choice, step: Step) -> list[dict[str, Any]]:
        """The chunks of a step."""
        since = len(choice.told)
        new = choice.take(step)
        logprobs = self._logprobs(choice, since=since) if len(choice.told) > since else None
        chunks = []
        if new or logprobs:
            chunks.append(self._chunk(choice, {**self._text("delta", new), "logprobs": logprobs}))
        if choice.finish is not None:
            last: dict[str, Any] = {"delta": {}} if self._kind.chat else {"text": ""}
            chunks.append(self._chunk(choice, {**last, "finish_reason": choice.finish}))
        return chunks

    def closing(self) -> list[dict[str, Any]]:
        """The chunk after all tokens: what was used, if asked for."""
        if not self._asked.include_usage:
            return []
        return [{**self._head, "object": self._kind.chunk, "choices": [], "usage": self._usage()}]

    def _chunk(self, choice: Choice, content: dict[str, Any]) -> dict[str, Any]:
        one = {"index": choice.number, "logprobs": None, "finish_reason": None, **content}
        usage = {"usage": None} if self._asked.include_usage else {}
        return {**self._head, "object": self._kind.chunk, "choices": [one], **usage}

    def _text(self, under: str, text: str) -> dict[str, Any]:
        if not self._kind.chat:
            return {"text": text}
        return {under: {"content": text, **({"role": "assistant", "refusal": None} if under == "message" else {})}}

    def _usage(self) -> dict[str, int]:
        generated, prompt = sum(choice.tokens for choice in self.choices), self._asked.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def _logprobs(self, choice: Choice, *, since: int) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        told = choice.told[since:]
        if self._kind.chat:
            return {"content": [self._told(*each) for each in told], "refusal": None}
        texts = [self._tokenizer.decode([token]) for token, _ in told]
        offset = len(self._asked.echoes[choice.number]) + sum(
            len(self._tokenizer.decode([token])) for token, _ in choice.told[:since]
        )
        return {
            "tokens": texts,
            "token_logprobs": [each.logprob for _, each in told],
            "top_logprobs": [{self._tokenizer.decode([t]): p for t, p in each.likeliest} for _, each in told],
            "text_offset": _offsets(texts, start=offset),
        }

    def _told(self, token: int, told: TokenLogprob) -> dict[str, Any]:
        def written(token: int, logprob: float) -> dict[str, Any]:
            text = self._tokenizer.decode([token])
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        return {**written(token, told.logprob), "top_logprobs": [written(*each) for each in told.likeliest]}


def _offsets(texts: Sequence[str], *, start: int) -> list[int]:
    places = [start]
    for text in texts:
        places.append(places[-1] + len(text))
    return places[:-1]
