"""The OpenAI API's replies and chunks: what an answer's steps are written as. Pure."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from inference_server.engines.engine import Finish, ServedModel, Step, TokenLogprob
from inference_server.openai import Asked
from inference_server.text import Writer
from inference_server.tools.calls import CallReader, ToolCall
from inference_server.tools.channels import ChannelReader


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
    reader: CallReader | ChannelReader | None = None
    most_calls: int = 0
    finish: Finish | Literal["tool_calls"] | None = None
    tokens: int = 0
    calls: list[ToolCall] = field(default_factory=list)
    begun: bool = False
    about_prompt: tuple[TokenLogprob, ...] = ()
    told: list[tuple[int, TokenLogprob]] = field(default_factory=list)

    def take(self, step: Step) -> str:
        """The new text of a step, without calls: those are in ``calls``. ``finish`` says if the answer is complete."""
        self.about_prompt = self.about_prompt or step.prompt
        self.tokens += len(step.tokens)
        self.told += zip(step.tokens, step.logprobs, strict=False)
        new = self.writer.push(step.tokens)
        if step.finish is not None:
            new += self.writer.finish()
            self.finish = step.finish
        if self.writer.stopped:
            self.finish = "stop"
        if self.reader:
            new = self._without_calls(new, self.reader)
        self.text += new
        return new

    @property
    def reasoning(self) -> str:
        """What it thought, where its format tells that apart."""
        return self.reader.reasoning if self.reader else ""

    def _without_calls(self, new: str, reader: CallReader | ChannelReader) -> str:
        """The text that is none of a call. As many calls as may be end the answer."""
        shown, calls = reader.push(new)
        if self.finish is not None:
            rest, more = reader.finish()
            shown, calls = shown + rest, calls + more
        self.calls = [*self.calls, *calls][: self.most_calls]
        if len(self.calls) == self.most_calls or (self.calls and self.finish == "stop"):
            self.finish = "tool_calls"
        return shown


class Reply:
    """One request's reply, as a whole or in chunks."""

    def __init__(self, asked: Asked, kind: Kind, *, model: ServedModel) -> None:
        self._asked, self._kind, self._tokenizer = asked, kind, model.tokenizer
        self._head = {"id": f"{kind.prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        self.choices = [self._choice(number) for number in range(len(asked.generations))]

    def _choice(self, number: int) -> Choice:
        tools, decode = self._asked.tools, self._tokenizer.decode
        seen = partial(decode, keep=tools.kept) if tools and tools.kept else decode
        writer = Writer(seen, prompt=self._asked.generations[number].prompt, stops=self._asked.stops)
        choice = Choice(number, writer, self._asked.echoes[number])
        if tools:
            choice.reader, choice.most_calls = tools.reader(), tools.most
        return choice

    def whole(self) -> dict[str, Any]:
        """The reply when all is there."""
        choices = [
            {
                "index": choice.number,
                **self._content(choice),
                "logprobs": self._all_logprobs(choice),
                "finish_reason": choice.finish,
                **({} if self._kind.chat else self._of_prompt(choice)),
            }
            for choice in self.choices
        ]
        of_prompt = self._of_prompt(self.choices[0]) if self._kind.chat else {}  # which is the same for all
        whole = {**self._head, "object": self._kind.whole, "choices": choices, "usage": self._usage()}
        return {**whole, **of_prompt}

    def opening(self) -> list[dict[str, Any]]:
        """The chunks before any token: who speaks."""
        if not self._kind.chat:
            return []
        return [self._chunk(choice, {"delta": {"role": "assistant", "content": ""}}) for choice in self.choices]

    def taken(self, choice: Choice, step: Step) -> list[dict[str, Any]]:
        """The chunks of a step."""
        since, called, thought = len(choice.told), len(choice.calls), len(choice.reasoning)
        new = self.take(choice, step)
        chunks = [] if choice.begun else self._echoed(choice)
        choice.begun = True
        if more := choice.reasoning[thought:]:
            chunks.append(self._chunk(choice, {"delta": {"reasoning": more}}))
        logprobs = self._logprobs(choice, since=since) if len(choice.told) > since else None
        if new or logprobs:
            chunks.append(self._chunk(choice, {**self._text("delta", new), "logprobs": logprobs}))
        chunks += [self._chunk(choice, {"delta": {"tool_calls": [each]}}) for each in _called(choice, since=called)]
        if choice.finish is not None:
            last: dict[str, Any] = {"delta": {}} if self._kind.chat else {"text": ""}
            chunks.append(self._chunk(choice, {**last, "finish_reason": choice.finish}))
        return chunks

    def take(self, choice: Choice, step: Step) -> str:
        """The new text of a step. Where only the prompt is asked about, the first step is the end."""
        if self._asked.prompt_alone:
            choice.about_prompt, choice.finish = step.prompt, "length"
            return ""
        return choice.take(step)

    def _echoed(self, choice: Choice) -> list[dict[str, Any]]:
        echo = self._asked.echoes[choice.number]
        return [self._chunk(choice, {"text": echo, "logprobs": self._logprobs_of_prompt(choice)})] if echo else []

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
        return {under: {"content": text}} if self._kind.chat else {"text": text}

    def _content(self, choice: Choice) -> dict[str, Any]:
        """The whole answer of a choice."""
        if not self._kind.chat:
            return {"text": choice.text}
        calls = [{key: value for key, value in call.items() if key != "index"} for call in _called(choice, since=0)]
        message = {"role": "assistant", "content": choice.text if choice.text or not calls else None, "refusal": None}
        more: dict[str, Any] = {"reasoning": choice.reasoning, "tool_calls": calls}
        return {"message": {**message, **{key: value for key, value in more.items() if value}}}

    def _usage(self) -> dict[str, int]:
        generated, prompt = sum(choice.tokens for choice in self.choices), self._asked.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def _all_logprobs(self, choice: Choice) -> dict[str, Any] | None:
        """Of the echoed prompt too, if it was asked for."""
        answer, prompt = self._logprobs(choice, since=0), self._logprobs_of_prompt(choice)
        return {key: [*prompt[key], *answer[key]] for key in answer} if answer and prompt else answer

    def _logprobs_of_prompt(self, choice: Choice) -> dict[str, Any] | None:
        if self._asked.logprobs is None or not self._asked.echoes[choice.number]:
            return None
        tokens = self._asked.generations[choice.number].prompt
        texts = [self._tokenizer.decode([token]) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [None, *(each.logprob for each in choice.about_prompt)],
            "top_logprobs": [None, *(self._likeliest(each, self._asked.logprobs) for each in choice.about_prompt)],
            "text_offset": _offsets(texts, start=0),
        }

    def _of_prompt(self, choice: Choice) -> dict[str, Any]:
        """vLLM's field about the prompt, if asked for: by token id, first the token itself."""
        most = self._asked.prompt_logprobs
        if most is None:
            return {}

        def written(token: int, logprob: float, rank: int | None) -> dict[str, Any]:
            return {"logprob": logprob, "rank": rank, "decoded_token": self._tokenizer.decode([token])}

        told: list[dict[str, Any] | None] = [None]
        for token, each in zip(self._asked.generations[choice.number].prompt[1:], choice.about_prompt, strict=True):
            others = enumerate(each.likeliest[:most], start=1)
            of_others = {str(other): written(other, logprob, rank) for rank, (other, logprob) in others}
            told.append({str(token): written(token, each.logprob, each.rank), **of_others})
        return {"prompt_logprobs": told}

    def _likeliest(self, told: TokenLogprob, most: int | None = None) -> dict[str, float]:
        return {self._tokenizer.decode([token]): logprob for token, logprob in told.likeliest[:most]}

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
            "top_logprobs": [self._likeliest(each) for _, each in told],
            "text_offset": _offsets(texts, start=offset),
        }

    def _told(self, token: int, told: TokenLogprob) -> dict[str, Any]:
        def written(token: int, logprob: float) -> dict[str, Any]:
            text = self._tokenizer.decode([token])
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        return {**written(token, told.logprob), "top_logprobs": [written(*each) for each in told.likeliest]}


def _called(choice: Choice, *, since: int) -> list[dict[str, Any]]:
    return [
        {"index": since + place, "id": call.id, "type": "function",
         "function": {"name": call.name, "arguments": call.arguments}}
        for place, call in enumerate(choice.calls[since:])
    ]  # fmt: skip


def _offsets(texts: Sequence[str], *, start: int) -> list[int]:
    places = [start]
    for text in texts:
        places.append(places[-1] + len(text))
    return places[:-1]
