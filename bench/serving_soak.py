"""Ten thousand requests to the native engine over HTTP, of random length, three in ten given up: nothing stays behind.

It says on standard error after each tenth of them what the server holds when nobody asks for anything.
"""

import asyncio
import contextlib
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.figures import Figure, measure
from tests.support.serving import serving
from tests.support.tiny_model import write_tiny_model

REQUESTS = int(os.environ.get("KAITO_SOAK_REQUESTS", "10000"))
MODEL = os.environ.get("KAITO_SOAK_MODEL", "")
"""A model's directory in place of the random one of 64 tokens' context; its prompts and answers are as short."""
FLAGS = tuple(os.environ.get("KAITO_SOAK_FLAGS", "").split())
"""More flags for the server."""
AT_ONCE, TENTHS = 50, 10
HELD = {
    "blocks_in_use": "kaito_inference_cache_blocks_used",
    "requests_inside": "kaito_inference_requests_inside",
    "tasks": "python_asyncio_tasks",
}
GIVEN_UP = "given up"


@dataclass(frozen=True)
class Wanted:
    """One request, and the patience of who asks: tokens or seconds until it hangs up, if it does."""

    path: str
    body: dict[str, Any]
    tokens: int | None = None
    seconds: float | None = None


def wanted(chance: random.Random) -> Wanted:
    """A prompt of 1 to 30 words, 1 to 30 tokens more of it, on any path, as a stream or whole."""
    words, most = " ".join(f"w{chance.randrange(30)}" for _ in range(chance.randint(1, 30))), chance.randint(1, 30)
    sampled, stream, leaves = (chance.random() < share for share in (0.5, 0.5, 0.3))
    tokens, seconds = chance.randint(0, 12) if leaves else None, chance.random() * 0.1 if leaves else None
    options = {"max_tokens": most, "temperature": int(sampled)}
    if stream:
        return Wanted("/v1/completions", {"prompt": words, "stream": True, **options}, tokens=tokens)
    if chance.random() < 0.5:
        turn = {"role": "user", "content": words}
        return Wanted("/v1/chat/completions", {"messages": [turn], **options}, seconds=seconds)
    whole = {"prompt": words, "generate_kwargs": {"max_new_tokens": most, "do_sample": sampled}}
    return Wanted("/chat", whole, seconds=seconds)


@dataclass
class Soak:
    """What has been asked for, and what the server held after each tenth of it."""

    url: str
    server: psutil.Process
    chance: random.Random = field(default_factory=lambda: random.Random(6))
    ends: Counter[str] = field(default_factory=Counter)
    held: list[dict[str, float]] = field(default_factory=list)

    async def run(self) -> None:
        """All tenths, each by AT_ONCE clients who ask again as soon as they are answered."""
        async with aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=0)) as session:
            for tenth in range(1, TENTHS + 1):
                left = iter(range(REQUESTS // TENTHS))
                await asyncio.gather(*(self._client(session, left) for _ in range(AT_ONCE)))
                self.held.append(await self._at_rest(session))
                print(f"serving_soak: {tenth * 10} %: {self.held[-1]} {dict(self.ends)}", file=sys.stderr, flush=True)

    async def _client(self, session: aiohttp.ClientSession, left: Iterator[int]) -> None:
        for _ in left:
            request = wanted(self.chance)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(request.seconds):
                    self.ends[await _end(session, request)] += 1
                    continue
            self.ends[GIVEN_UP] += 1

    async def _at_rest(self, session: aiohttp.ClientSession) -> dict[str, float]:
        """What the server holds once everybody is answered or gone. What a leak holds is told after ten seconds."""
        for _ in range(100):
            found = await _metrics(session)
            if not (found["requests_inside"] or found["blocks_in_use"]):
                break
            await asyncio.sleep(0.1)
        return {
            **found,
            "rss_mb": round(self.server.memory_info().rss / (1 << 20), 1),
            "threads": self.server.num_threads(),
            "file_descriptors": self.server.num_fds(),
        }


async def _end(session: aiohttp.ClientSession, request: Wanted) -> str:
    """The status of the reply, or that it was given up after so many of its lines."""
    async with session.post(request.path, json=request.body) as reply:
        if request.tokens is None:
            await reply.read()
            return str(reply.status)
        events = 0
        async for line in reply.content:
            events += line.startswith(b"data")
            if events > request.tokens:
                reply.close()
                return GIVEN_UP
        return str(reply.status)


async def _metrics(session: aiohttp.ClientSession) -> dict[str, float]:
    async with session.get("/metrics") as reply:
        text = await reply.text()
    found = {name: re.search(rf"(?m)^{metric} (\S+)", text) for name, metric in HELD.items()}
    return {name: float(value[1]) for name, value in found.items() if value}


@measure("serving_soak.", only_when_named=True)
def serving_soak() -> Iterator[Figure]:
    """What the server holds at rest after the last request, against after the first tenth."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(MODEL) if MODEL else write_tiny_model(Path(place), hidden=64)
        flags = ("--engine=native", f"--max_waiting={2 * AT_ONCE}", *FLAGS)
        with serving(directory, *flags, log=Path(place) / "log") as server:
            server.wait_until("/readyz")
            soak, began = Soak(server.url, psutil.Process(server.process.pid)), time.monotonic()
            asyncio.run(soak.run())
    yield Figure("serving_soak.requests", sum(soak.ends.values()), "")
    yield Figure("serving_soak.seconds", time.monotonic() - began, "s")
    yield Figure("serving_soak.given_up", soak.ends[GIVEN_UP], "")
    yield Figure(
        "serving_soak.neither_200_nor_given_up", soak.ends.total() - soak.ends["200"] - soak.ends[GIVEN_UP], ""
    )
    for what, last in soak.held[-1].items():
        yield Figure(f"serving_soak.{what}", last, "", soak.held[0][what])
