"""The door: whoever would get no place is refused before anything of the request is read, by replies that are written.

A server that is full is asked most: what a refusal costs is taken from the answers that are being computed beside it.
So a refusal costs no body, no thread, no JSON. What has come of the body is thrown away by uvicorn, and the connection
stays open for the next try (RFC 9112 §9.3: read it all, or close); a client that waits for ``100 Continue`` before it
sends a body is told that the connection ends (RFC 9110 §10.1.1), since it need not send it any more.
"""

import json
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.errors import Refusal, envelope
from inference_server.limits import Admission
from inference_server.metrics import Metrics

ANSWERING: Mapping[str, bool] = {"/chat": False, "/v1/chat/completions": True, "/v1/completions": True}
"""The paths that take a place, and whether they speak the OpenAI API."""


class Door:
    """Asks the admission first; a stranger to the keys goes on, to be told that."""

    def __init__(
        self, app: ASGIApp, *, admission: Admission, metrics: Metrics, known: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._app, self._admission, self._metrics, self._known = app, admission, metrics, known
        self._written = {
            (path, refusal): body_of(refusal, openai=openai)
            for path, openai in ANSWERING.items()
            for refusal in (admission.full, admission.leaving)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A refusal, or the application's own reply."""
        refusal = self._admission.refusal() if scope["type"] == "http" and scope["method"] == "POST" else None
        if refusal is None or scope["path"] not in ANSWERING:
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope)
        if not self._known(sent.get("authorization", "")):
            await self._app(scope, receive, send)
            return
        self._metrics.requests.labels(refusal.status).inc()
        body = self._written[scope["path"], refusal]
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % refusal.retry_after),
        ]
        headers += [(b"connection", b"close")] if "expect" in sent else []
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def body_of(refusal: Refusal, *, openai: bool) -> bytes:
    """The body of a refusal in the envelope of its API."""
    return json.dumps(envelope(refusal)[1] if openai else {"detail": refusal.detail}).encode()
