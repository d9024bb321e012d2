"""Why a request is not answered: each reason is an HTTP status and a detail for the one who asked."""

from typing import Any


class Refusal(Exception):
    """A request that gets no answer; ``detail`` says what to change, or when to come again."""

    status = 400
    retry_after: int | None = None

    def __init__(self, detail: str | list[dict[str, Any]]) -> None:
        self.detail = detail
        super().__init__(detail)


class BadRequest(Refusal):
    """Well-formed, but this model or this server cannot do it."""


class BodyTooSlow(Refusal):
    """The body did not arrive in time."""

    status = 408


class BodyTooLarge(Refusal):
    """More bytes than a prompt can have."""

    status = 413


class NotJson(Refusal):
    """The content type is another one."""

    status = 415


class Malformed(Refusal):
    """Not what the schema says; ``detail`` is FastAPI's list of errors, without the input."""

    status = 422


class Busy(Refusal):
    """As many requests wait as may."""

    status = 429
    retry_after = 2


class ClientGone(Refusal):
    """Nobody reads the answer any more; the status is nginx's, for the metrics alone."""

    status = 499


class Unavailable(Refusal):
    """The model is not loaded yet, the server is about to stop, or the memory is full."""

    status = 503
    retry_after = 5
