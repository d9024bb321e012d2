"""The queue: a key alone, repeats once, failures later, and one bad key stops nobody."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from kaito_operator.plan import Key
from kaito_operator.workqueue import FIRST_BACKOFF, Retry, WorkQueue
from tests.support.waiting import soon

A, B = Key("ns", "a"), Key("ns", "b")


@asynccontextmanager
async def working(work: Callable[[Key], Awaitable[float | None]]) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work, workers=4)
    running = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_asking_ten_times_before_it_starts_is_asking_once() -> None:
    calls: list[Key] = []

    async def work(key: Key) -> None:
        calls.append(key)

    async with working(work) as queue:
        for _ in range(10):
            queue.add(A)
        queue.add(B)
        await soon(lambda: len(calls) >= 2)
        await asyncio.sleep(0)
    assert sorted(calls) == [A, B]


async def test_a_key_is_never_worked_on_twice_at_once_and_not_forgotten_while_it_is() -> None:
    at_once, most, calls = 0, 0, 0
    go_on, again = asyncio.Event(), asyncio.Event()

    async def work(_: Key) -> None:
        nonlocal at_once, most, calls
        at_once, calls = at_once + 1, calls + 1
        most = max(most, at_once)
        if calls == 2:
            again.set()
        await go_on.wait()
        at_once -= 1

    async with working(work) as queue:
        queue.add(A)
        await soon(lambda: calls)
        for _ in range(5):
            queue.add(A)
        go_on.set()
        async with asyncio.timeout(120):
            await again.wait()
    assert (most, calls) == (1, 2)


async def test_a_failing_key_backs_off_and_the_others_go_on() -> None:
    times: list[float] = []
    others = 0
    third = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work(key: Key) -> None:
        nonlocal others
        if key == B:
            others += 1
            return
        times.append(loop.time())
        if len(times) == 3:
            third.set()
            return
        raise Retry("no") if len(times) == 1 else ZeroDivisionError("a bug that this object brings to light")

    async with working(work) as queue:
        queue.add(A)
        queue.add(B)
        async with asyncio.timeout(120):
            await third.wait()
    first, second = times[1] - times[0], times[2] - times[1]
    assert first >= FIRST_BACKOFF * 0.8
    assert second >= FIRST_BACKOFF * 2 * 0.8
    assert others == 1


async def test_an_event_in_between_takes_the_place_of_the_timer() -> None:
    calls = 0
    twice = asyncio.Event()

    async def work(_: Key) -> float | None:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        return 3600.0 if calls == 1 else None

    async with working(work) as queue:
        queue.add(A)
        await soon(lambda: calls)
        await asyncio.sleep(0)
        queue.add(A)
        async with asyncio.timeout(120):
            await twice.wait()
    assert calls == 2
