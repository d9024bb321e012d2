"""What every request to Azure's stand-in goes through: history, faults, token, api-version and buckets."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from aiohttp import web

from local_cluster.azure_answers import error, throttled, too_many
from local_cluster.azure_behaviour import Behaviour
from local_cluster.azure_faults import Fault, Faults, RequestClass
from local_cluster.azure_throttle import FRONT_DOOR, Buckets
from local_cluster.azure_tokens import CHALLENGE, caller, distrusted

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Entry = dict[str, Any]
FAILS = web.RequestKey("fails", dict)
"""The error in which the operation of this request is to end."""
CONTROL = "/control"
KEPT = 4096
"""Characters of a body that the history keeps."""
SUBSCRIPTION = re.compile(r"/subscriptions/([^/]+)")
PATHS: tuple[tuple[str, RequestClass], ...] = (
    (r"/agentPools$", "list"),
    (r"/agentPools/[^/]+/abort$", "abort"),
    (r"/operations/[^/]+$|/operationresults/[^/]+$", "operation"),
    (r"/usages$", "usages"),
    (r"/skus$", "skus"),
)
METHODS: dict[str, RequestClass] = {"PUT": "put", "DELETE": "delete", "GET": "get"}
HANDLERS = {
    "list": "ListAgentPoolsHandler.GET",
    "get": "GetAgentPoolHandler.GET",
    "put": "PutAgentPoolHandler.PUT",
    "delete": "DeleteAgentPoolHandler.DELETE",
    "abort": "AbortAgentPoolLatestOperationHandler.POST",
    "operation": "GetOperationStatusHandler.GET",
}
"""Request class → the handler that AKS names when it throttles."""


def request_class(method: str, path: str) -> RequestClass:
    """Of which class a request is."""
    return next((found for pattern, found in PATHS if re.search(pattern, path)), METHODS.get(method, "get"))


@dataclass(slots=True)
class FrontDoor:
    """Azure Resource Manager before the service: it remembers every call."""

    behaviour: Behaviour
    faults: Faults = field(default_factory=Faults)
    buckets: Buckets = field(default_factory=Buckets)
    history: list[Entry] = field(default_factory=list)

    def middlewares(self) -> list[Any]:
        """For the application, outermost first."""
        return [self._recorded, self._struck, self._judged]

    @web.middleware
    async def _recorded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keeps what was asked and answered; the control routes are not part of the story."""
        if request.path.startswith(CONTROL):
            return await handler(request)
        entry = await _asked(request)
        self.history.append(entry)
        request[ENTRY] = entry
        response = await handler(request)
        response_is_whole = request.transport is not None and not request.transport.is_closing()
        if response_is_whole:
            entry["status"], entry["answer"] = response.status, _text(response)
        return response

    @web.middleware
    async def _struck(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The faults that a test asked for: in place of the answer, of the connection, or of the operation's end."""
        if request.path.startswith(CONTROL):
            return await handler(request)
        fault = self.faults.matching(request_class(request.method, request.path), request.method, request.path)
        if fault is None:
            return await self._carried_out(request, handler)
        request[ENTRY]["fault"] = fault.told
        if fault.fails is not None:
            request[FAILS] = fault.fails
        own = await self._carried_out(request, handler) if fault.after_commit else None
        await asyncio.sleep(fault.delay)
        if own is None and (fault.truncated or not (fault.answers or fault.reset)):
            own = await self._carried_out(request, handler)
        return await _spoilt(fault, request, own)

    async def _carried_out(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        request[ENTRY]["carried_out"] = response.status
        return response

    @web.middleware
    async def _judged(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What the front door checks, in its order, before the service sees anything."""
        if request.path.startswith(CONTROL):
            return await handler(request)
        authorization, set_to = request.headers.get("Authorization", ""), self.behaviour
        no = distrusted(authorization, checked=set_to.tokens_checked, audiences=set_to.audiences, now=datetime.now(UTC))
        if no is not None:
            return error(401, *no, headers=CHALLENGE)
        if "api-version" not in request.query:
            told = "The api-version query parameter (?api-version=) is required for all requests."
            return error(400, "MissingApiVersionParameter", told)
        response = self._full(request) or await handler(request)
        response.headers.update(self._told(request))
        return response

    def _full(self, request: web.Request) -> web.Response | None:
        """429 where a bucket is empty: the front door's, then that of AKS."""
        if not self.behaviour.throttled:
            return None
        kind, subscription, now = request_class(request.method, request.path), _subscription(request), time.monotonic()
        sizes = self.behaviour.buckets
        if wait := self.buckets.draw(FRONT_DOOR[request.method], subscription, sizes, now=now):
            return too_many(subscription, seconds=wait)
        if kind not in HANDLERS:
            return None
        name = {"put": "put-agent-pool", "operation": "operation-status"}.get(kind, "other")
        scope = request.path if kind == "put" else subscription
        if wait := self.buckets.draw(name, scope, sizes, now=now):
            return throttled(HANDLERS[kind], subscription, seconds=wait)
        return None

    def _told(self, request: web.Request) -> dict[str, str]:
        """The headers that every answer of Azure Resource Manager has."""
        headers = {"x-ms-request-id": str(uuid4()), "x-ms-correlation-request-id": str(uuid4())}
        if self.behaviour.throttled:
            name = FRONT_DOOR[request.method]
            left = self.buckets.left(name, _subscription(request))
            headers[f"x-ms-ratelimit-remaining-subscription-{name}"] = str(left)
        return headers


ENTRY = web.RequestKey("entry", dict)


async def _spoilt(fault: Fault, request: web.Request, own: web.StreamResponse | None) -> web.StreamResponse:
    """What the caller gets: nothing, half of it, another answer, or in the end the service's own."""
    if fault.reset and request.transport is not None:
        request.transport.abort()
    if fault.truncated and isinstance(own, web.Response):
        return await _half(request, own)
    if own is not None and not fault.answers:
        return own
    return web.json_response(fault.body, status=fault.status or 500, headers=fault.headers)


async def _half(request: web.Request, response: web.Response) -> web.StreamResponse:
    """An answer that breaks off: its length is announced, and half of it comes."""
    body = response.body if isinstance(response.body, bytes) and response.body else b"{}"
    cut = web.StreamResponse(status=response.status, headers={"Content-Type": "application/json"})
    cut.content_length = len(body)
    await cut.prepare(request)
    await cut.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return cut


async def _asked(request: web.Request) -> Entry:
    authorization = request.headers.get("Authorization", "")
    return {
        "time": time.time(),
        "class": request_class(request.method, request.path),
        "method": request.method,
        "path": request.path,
        "query": dict(request.query),
        "caller": request.headers.get("User-Agent", ""),
        "identity": caller(authorization),
        "body": (await request.text())[:KEPT],
        "status": 0,  # stays where there was no answer
        "answer": "",
        "carried_out": 0,  # what the service said, whether or not that arrived
        "fault": "",
    }


def _subscription(request: web.Request) -> str:
    found = SUBSCRIPTION.match(request.path)
    return found[1] if found else ""


def _text(response: web.StreamResponse) -> str:
    body = getattr(response, "body", None)
    return body.decode(errors="replace")[:KEPT] if isinstance(body, bytes) else ""
