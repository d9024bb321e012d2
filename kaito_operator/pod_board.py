"""What programs in pods say of themselves, asked every now and then over HTTP: no pod needs rights to tell it."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import aiohttp

from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.workspace.services import HTTP_PORT

log = logging.getLogger(__name__)

Told = TypeVar("Told")
EVERY_SECONDS = 10.0
"""Between two looks, and so between two writes of a status that only moved on."""
LARGEST_ANSWER = 65536
TIMEOUT = aiohttp.ClientTimeout(total=3)
PodAtWork = tuple[Key, str, str]
"""Workspace, name and address."""


@dataclass(slots=True, kw_only=True)
class PodBoard(Generic[Told]):
    """The last words of each pod at work, by namespace and name; forgotten when it is at work no more."""

    path: str
    at_work: Callable[[Mirror], Iterable[PodAtWork]]
    read: Callable[[bytes], Told | None]
    """What an answer says; None if it makes no sense."""
    port: int = HTTP_PORT
    every_seconds: float = EVERY_SECONDS
    _by_pod: dict[tuple[str, str], Told] = field(default_factory=dict)

    def of(self, key: Key, pod: str) -> Told | None:
        """What a pod of a Workspace has said."""
        return self._by_pod.get((key.namespace, pod))

    async def keep_up(self, add: Callable[[Key], None], mirror: Mirror) -> None:
        """Asks every pod at work now and then, until cancelled; whom news concern gets a pass."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            while True:
                await asyncio.sleep(self.every_seconds)
                asked = list(self.at_work(mirror))
                told = await asyncio.gather(*(self._ask(session, address) for _, _, address in asked))
                now = {(key.namespace, pod): each for (key, pod, _), each in zip(asked, told, strict=True) if each}
                moved = [key for key, pod, _ in asked if now.get((key.namespace, pod)) != self.of(key, pod)]
                self._by_pod = now
                for key in moved:
                    add(key)

    async def _ask(self, session: aiohttp.ClientSession, address: str) -> Told | None:
        """Who does not answer is busy, or still loads its libraries; the next look tells."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(f"http://{host}:{self.port}{self.path}") as answer:
                return self.read(await answer.content.read(LARGEST_ANSWER))
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("no word from %s: %s", address, error)
            return None
