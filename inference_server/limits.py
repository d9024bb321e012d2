"""How much a client may ask for: bytes and seconds of a body, places in the queue, and nothing once it has gone."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from inference_server.errors import BodyTooLarge, BodyTooSlow, Busy, ClientGone, NotJson, Unavailable
from inference_server.settings import Settings

Answer = TypeVar("Answer")


class Admission:
    """The door: how many are inside, and whether it is still open. Belongs to the event loop."""

    def __init__(self, *, places: Callable[[], int]) -> None:
        self.inside = 0
        self.closed = False
        self._places = places
        self.full = Busy("every place is taken by requests that are answered or wait: come again later")
        self.leaving = Unavailable("the server is about to stop")

    def close(self) -> None:
        """Lets nobody in any more; who is inside stays until the answer."""
        self.closed = True

    def refusal(self) -> Busy | Unavailable | None:
        """Why nobody gets a place now: one of two, which never change."""
        if self.closed:
            return self.leaving
        return self.full if self.inside >= self._places() else None

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place from here to the answer. Raises Busy or Unavailable."""
        if refusal := self.refusal():
            raise type(refusal)(refusal.detail)  # another one, for a raised exception holds on to those who raised it
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


async def read_json(request: Request, *, settings: Settings) -> bytes:
    """The body of a request that says it is JSON. Raises a Refusal if it is another type, too large or too slow."""
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared != "application/json" and not (declared.startswith("application/") and declared.endswith("+json")):
        raise NotJson("send JSON with the header Content-Type: application/json")
    try:
        async with asyncio.timeout(settings.body_seconds):
            return await _body(request, most=settings.max_body_bytes)
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not arrive within {settings.body_seconds:g} s") from error
    except ClientDisconnect as error:
        raise ClientGone("the client went away") from error


async def _body(request: Request, *, most: int) -> bytes:
    body = bytearray()
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise BodyTooLarge(f"the body may have {most} bytes")
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise BodyTooLarge(f"the body may have {most} bytes")
    return bytes(body)


async def while_wanted(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """What the work returns. Cancels it and raises ClientGone if the client goes away. Needs the body read before."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("the client went away")
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
