"""Long greedy answers that a server gives again and again while something else is done to it: each as it was alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

TOKENS = 400
CLEAR = 5e-4
"""By how much more likely than the next each token is: float32 rounds to a hundredth of it, whoever is in the batch."""
CANDIDATES = [[5 + (7 * first + at) % 60 for at in range(5)] for first in range(60)]
"""Prompts for a tiny model."""


@dataclass(frozen=True)
class Answer:
    """What a prompt got: each token's text and the logarithm of its probability."""

    prompt: list[int]
    tokens: list[str]
    logprobs: list[float]
    margin: float
    """How far the closest choice was from another."""


async def answer_to(session: aiohttp.ClientSession, prompt: list[int], *, begun: asyncio.Event | None = None) -> Answer:
    """As a stream, which a bad token, a lost or doubled one, or an error would show in."""
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 2, "stream": True}
    told: list[dict[str, Any]] = []
    async with session.post("/v1/completions", json=body) as reply:
        async for line in reply.content:
            if line.startswith(b"data: {"):
                told += [choice["logprobs"] for choice in json.loads(line[6:])["choices"] if choice["logprobs"]]
                if begun:
                    begun.set()
    pairs = [sorted(each.values(), reverse=True) for part in told for each in part["top_logprobs"]]
    return Answer(
        prompt,
        [token for part in told for token in part["tokens"]],
        [logprob for part in told for logprob in part["token_logprobs"]],
        min((likeliest - next_ for likeliest, next_ in pairs), default=0.0),
    )


async def alone(session: aiohttp.ClientSession, *, number: int) -> list[Answer]:
    """Answers that wander, and in which no token was a close call; one after the other."""
    found: list[Answer] = []
    for prompt in CANDIDATES:
        answer = await answer_to(session, prompt)
        if answer.margin > CLEAR and len(set(answer.tokens)) > 5:
            found.append(answer)
        if len(found) == number:
            return found
    raise AssertionError(f"only {len(found)} of the prompts have a clear answer")


@asynccontextmanager
async def running(session: aiohttp.ClientSession, answers: Sequence[Answer]) -> AsyncIterator[None]:
    """Has each given again and again, all at once, from the first token of each to the end of the block's last one."""
    over = asyncio.Event()

    async def repeated(answer: Answer, begun: asyncio.Event) -> None:
        while not over.is_set():
            again = await answer_to(session, answer.prompt, begun=begun)
            assert again.tokens == answer.tokens
            assert again.logprobs == pytest.approx(answer.logprobs, abs=1e-3)

    starts = [asyncio.Event() for _ in answers]
    tasks = [asyncio.ensure_future(repeated(*each)) for each in zip(answers, starts, strict=True)]
    try:
        for begun in starts:
            await begun.wait()
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)
