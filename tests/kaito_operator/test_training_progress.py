"""How far a training is, asked of a trainer over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.pod_board import PodBoard
from kaito_operator.training_progress import progress_board
from kaito_operator.workspace.seen_pods import Progress
from tests.support.builders import a_tuning_pod

KEY, POD = Key("team", "chat"), "job-abcde"


@asynccontextmanager
async def trainer(*answers: str) -> AsyncIterator[int]:
    """Answers /progress with one text after another, the last for ever; yields its port."""
    left = list(answers)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=left.pop(0) if len(left) > 1 else left[0])

    application = web.Application()
    application.router.add_get("/progress", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def seen_at_work(step: str = "trainer") -> Mirror:
    mirror, pod = Mirror(), a_tuning_pod("job", running=step)
    mirror.put({**pod, "status": {**pod["status"], "podIP": "127.0.0.1"}})
    return mirror


async def asked(mirror: Mirror, port: int, *, times: int) -> tuple[PodBoard[Progress], list[Key]]:
    """The board after so many Workspaces were woken."""
    board, woken, enough = progress_board(port=port, every_seconds=0.01), list[Key](), asyncio.Event()

    def add(key: Key) -> None:
        woken.append(key)
        if len(woken) == times:
            enough.set()

    task = asyncio.create_task(board.keep_up(add, mirror))
    async with asyncio.timeout(120):
        await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return board, woken


TOLD = (
    '{"step": 3, "total_steps": 8, "loss": 1.23456, "eta_seconds": 130.4, "phase": "training", "epoch": 0.375,'
    ' "tokens_per_second": 812.4, "peak_memory_bytes": 1717986918}'
)


async def test_what_the_trainer_tells_wakes_its_workspace_and_is_kept() -> None:
    async with trainer(TOLD) as port:
        board, woken = await asked(seen_at_work(), port, times=1)
    assert woken == [KEY]
    assert board.of(KEY, POD) == Progress(
        step=3, steps=8, loss="1.235", eta_seconds=130, epoch="0.38", tokens_per_second=812, peak_memory="1638Mi"
    )
    assert str(board.of(KEY, POD)) == "step 3 of 8, loss 1.235, about 2 min left"


async def test_only_what_moved_on_wakes() -> None:
    later = TOLD.replace('"step": 3', '"step": 4')
    async with trainer(TOLD, TOLD, TOLD, later) as port:
        _, woken = await asked(seen_at_work(), port, times=2)
    assert woken == [KEY, KEY]


@pytest.mark.badinput
@pytest.mark.parametrize("bad", ["", "no JSON", "[]", '{"step": -1, "total_steps": 2}', '{"step": "x"}', "{" * 100_000])
async def test_an_answer_that_makes_no_sense_is_none(bad: str) -> None:
    async with trainer(TOLD, bad) as port:
        board, woken = await asked(seen_at_work(), port, times=2)
    assert woken == [KEY, KEY]
    assert board.of(KEY, POD) is None


async def test_a_pod_that_downloads_or_publishes_is_not_asked() -> None:
    asked_at: list[Any] = []
    async with trainer(TOLD) as port:
        board = progress_board(port=port, every_seconds=0.01)
        task = asyncio.create_task(board.keep_up(asked_at.append, seen_at_work("download")))
        await asyncio.wait([task], timeout=0.2)
        task.cancel()
    assert asked_at == []
    assert board.of(KEY, POD) is None
