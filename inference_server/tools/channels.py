"""Answers in channels, as gpt-oss writes them (OpenAI's harmony format): thoughts, calls, and what is for the reader.

An answer is a row of messages: ``<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…``
A call is one to a function: ``<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{…}<|call|>``
"""

import json
import re
from collections.abc import Collection

from inference_server.text import overlap
from inference_server.tools.calls import ToolCall, made

MESSAGE = "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
END = re.compile("|".join(map(re.escape, ENDS)))
TO = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")
HEADS = ("<|channel|>", "<|start|>", "to=")
"""What a message may begin with; an answer that begins otherwise is plain text."""


class ChannelReader:
    """One answer's messages. ``push`` text, get what of it is for the reader and what are calls."""

    def __init__(self, *, known: Collection[str]) -> None:
        """``known``: the functions; a message to any other is text where there are none at all."""
        self._known = known
        self._held = self._body = ""
        self._head: str | None = None
        self._plain = self._any = False
        self.reasoning = ""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """See CallReader."""
        self._held += text
        shown, calls = "", list[ToolCall]()
        while self._plain or self._in_message():
            if self._plain:
                shown, self._held = shown + self._held, ""
                break
            end = END.search(self._held)
            cut = end.start() if end else len(self._held) - max(overlap(self._held, mark) for mark in ENDS)
            body, self._held = self._held[:cut], self._held[end.end() if end else cut :]
            shown += self._take(body)
            if not end:
                break
            calls += self._ended()
        return shown, calls

    def finish(self) -> tuple[str, list[ToolCall]]:
        """See CallReader."""
        shown = self._take(self._held) if self._head is not None else "" if self._any else self._held
        self._held, body = "", self._body
        if not body:
            return shown, []
        try:
            json.loads(body)
        except (ValueError, RecursionError):
            return shown + body, []
        return shown, self._ended()

    def _in_message(self) -> bool:
        """Whether the head of a message is read; reads it if it is there."""
        if self._head is None:
            head, found, rest = self._held.partition(MESSAGE)
            if found:
                self._head, self._held, self._any = head, rest, True
            elif not self._any and (start := head.lstrip()):
                self._plain = not any(start.startswith(own) or own.startswith(start) for own in HEADS)
        return self._head is not None

    @property
    def _called(self) -> str:
        """The function that the message is for; empty if it is for nobody."""
        to = TO.search(self._head or "") if self._known else None
        return to[1] if to else ""

    def _take(self, body: str) -> str:
        """Part of a message: what of it is shown at once."""
        if self._called:
            self._body += body
        elif "analysis" in (self._head or ""):
            self.reasoning += body
        else:
            return body
        return ""

    def _ended(self) -> list[ToolCall]:
        called, body = self._called, self._body
        self._head, self._body = None, ""
        return [made(called, body.strip() or "{}")] if called else []


def final(answer: str) -> str:
    """What of a whole answer is for its reader."""
    reader = ChannelReader(known=())
    return reader.push(answer)[0] + reader.finish()[0]
