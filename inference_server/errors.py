"""Why a request is not answered: each reason is an HTTP status and a detail for the one who asked."""

from typing import Any


class Refusal(Exception):
    """A request that gets no answer; ``detail`` says what to change, or when to come again."""

    status = 400
    retry_after: int | None = None

    def __init__(
        self, detail: str | list[dict[str, Any]], *, param: str | None = None, code: str | None = None
    ) -> None:
        self.detail = detail
        self.param = param
        self.code = code
        super().__init__(detail)


class BadRequest(Refusal):
    """Well-formed, but this model or this server cannot do it."""


class Unauthorized(Refusal):
    """No key, or none that is known."""

    status = 401


class NotFound(Refusal):
    """There is no such model."""

    status = 404


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


TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def envelope(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body as clients of the OpenAI API expect them; it knows no 422."""
    message, param = refusal.detail, refusal.param
    if not isinstance(message, str):
        where = [str(part) for part in message[0]["loc"][1:]]
        message, param = ": ".join((".".join(where) or "body", message[0]["msg"])), where[0] if where else None
    status = 400 if refusal.status == 422 else refusal.status
    return status, error(message, status=status, param=param, code=refusal.code)


def error(message: str, *, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The OpenAI API's body of an error."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
