"""How far a model is on its way into memory, asked of its pod, and told in the status."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from kaito_operator.loading_progress import loading_board
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.workspace import pod_diagnosis, seen_pods
from tests.support.builders import a_container, a_pod, condition

KEY, POD = Key("team", "chat"), "chat-6d9f-x2x4z"


@asynccontextmanager
async def server(answer: str) -> AsyncIterator[int]:
    """Answers /readyz with 503 and this text; yields its port."""

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text=answer, status=503)

    application = web.Application()
    application.router.add_get("/readyz", ready)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def with_pod(*, ready: str = "False") -> Mirror:
    mirror = Mirror()
    containers = [a_container()]
    mirror.put(a_pod(node="n", conditions=[condition("Ready", ready)], containers=containers, podIP="127.0.0.1"))
    return mirror


async def heard(answer: str) -> str | None:
    """What the board has once it woke the Workspace."""
    woken = asyncio.Event()
    async with server(answer) as port:
        board = loading_board(port=port, every_seconds=0.01)
        task = asyncio.create_task(board.keep_up(lambda _: woken.set(), with_pod()))
        async with asyncio.timeout(120):
            await woken.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return board.of(KEY, POD)


def loading(progress: str) -> str:
    return json.dumps({"status": "loading", "progress": progress})


@pytest.mark.parametrize(
    ("said", "heard_as"),
    [
        ("reading the weights, 40 s", "reading the weights"),
        ("1.0 of 3.0 GiB, 99 MB/s, about 20 s left", "1.0 of 3.0 GiB, 99 MB/s, about 20 s left"),
        ("a\nb\x00c " + "x" * 500, "a bc " + "x" * 115),
    ],
)
async def test_what_the_pod_says_is_heard_in_one_line_without_the_time_it_has_taken(said: str, heard_as: str) -> None:
    assert await heard(loading(said)) == heard_as


@pytest.mark.badinput
async def test_what_makes_no_sense_is_not_heard_and_a_pod_that_is_ready_is_not_asked() -> None:
    asked: list[Key] = []
    for answer, mirror in (("no JSON", with_pod()), (loading(""), with_pod()), (loading("x"), with_pod(ready="True"))):
        async with server(answer) as port:
            board = loading_board(port=port, every_seconds=0.01)
            task = asyncio.create_task(board.keep_up(asked.append, mirror))
            await asyncio.wait([task], timeout=0.2)
            task.cancel()
        assert board.of(KEY, POD) is None
    assert asked == []


def test_the_status_says_how_far_it_is() -> None:
    pod = seen_pods.pod(a_pod(node="n", containers=[a_container()]))
    assert pod_diagnosis.progress(pod) == f"Pod {POD} loads the model"
    told = replace(pod, told="reading the weights")
    assert pod_diagnosis.progress(told) == f"Pod {POD} loads the model: reading the weights"
    fetching = {**a_container(), "name": "model"}
    told = replace(seen_pods.pod(a_pod(node="n", initContainerStatuses=[fetching])), told="1.0 of 3.0 GiB")
    assert pod_diagnosis.progress(told) == f"Pod {POD} fetches the model from the Hub: 1.0 of 3.0 GiB"
