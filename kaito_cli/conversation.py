"""A conversation by OpenAI's API: what is sent, and what of a streamed answer is new text. Pure."""

import json
from collections.abc import Mapping
from typing import Any

DATA, DONE = "data:", "[DONE]"


class Refused(Exception):
    """The answer ended with an error, in the server's own words where it had any."""


def request(messages: list[dict[str, str]], *, model: str | None, most_tokens: int | None) -> dict[str, Any]:
    """The body of POST /v1/chat/completions. Without ``model`` the Workspace's default answers, adapters included."""
    body: dict[str, Any] = {"messages": list(messages), "stream": True, "temperature": 0}
    if model is not None:
        body["model"] = model
    if most_tokens is not None:
        body["max_tokens"] = most_tokens
    return body


def new_text(line: str) -> str:
    """What one line of the event stream adds to the answer; "" for lines that add nothing.

    Raises Refused for the error that a server sends once it has begun to answer, and for what was cut off.
    """
    if not line.startswith(DATA) or (data := line.removeprefix(DATA).strip()) == DONE:
        return ""
    try:
        event: Mapping[str, Any] = json.loads(data)
    except ValueError:
        raise Refused("it was cut off; ask again") from None
    if "error" in event:
        raise Refused(str(event["error"].get("message", event["error"])))
    return "".join(str(choice.get("delta", {}).get("content") or "") for choice in event.get("choices", []))


def told(body: str) -> str:
    """The server's own words in the body of an error, be it OpenAI's form, ours of ``/chat``, or neither."""
    try:
        found = json.loads(body)
    except ValueError:
        return body
    if not isinstance(found, dict):
        return body
    error = found.get("error")
    return str(error.get("message", body)) if isinstance(error, dict) else str(found.get("detail", body))
