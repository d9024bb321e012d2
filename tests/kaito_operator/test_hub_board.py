"""What the operator learns of the Hub: beside the passes, once for each model, and again where that may help."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kaito_operator.api.reasons import Reason
from kaito_operator.hub_board import HubBoard
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.workspace.hub_models import Trouble
from presets.catalog import Model, load_catalog
from presets.hub.reader import Hub
from tests.presets.test_hub import a_llama
from tests.support.faulty_http import Site, serve
from tests.support.hub import refused

KEY, OTHER = Key("team", "chat"), Key("team", "other")
NAME = "org/tiny-llama"


@asynccontextmanager
async def at_work(
    site: Site, cache: Path, *, soon: float = 0.01
) -> AsyncIterator[tuple[HubBoard, "asyncio.Queue[Key]"]]:
    """A board that asks a Hub, and whom it wakes."""
    board = HubBoard(Hub(cache=cache, endpoint=site.url), load_catalog(), soon=soon, later=0.01)
    woken = asyncio.Queue[Key]()
    task = asyncio.create_task(board.keep_up(woken.put_nowait, Mirror()))
    try:
        async with asyncio.timeout(120):
            yield board, woken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_answer_wakes_whoever_asked_and_the_hub_is_asked_once(tmp_path: Path) -> None:
    with serve(Site()) as site:
        a_llama().put_on(site)
        async with at_work(site, tmp_path) as (board, woken):
            assert board.of(KEY, NAME) is None
            assert board.of(OTHER, NAME) is None
            assert {await woken.get(), await woken.get()} == {KEY, OTHER}
            found = board.of(KEY, NAME)
            assert isinstance(found, Model)
            assert (found.name, found.revision) == (NAME, "0123456789abcdef0123456789abcdef01234567")
        assert len(site.asked("GET", "/api/models")) == 1


REFUSALS = {
    "gated": (refused(403, "GatedRepo"), Reason.HUB_GATED),
    "missing": (refused(404, "RepoNotFound"), Reason.HUB_MODEL_MISSING),
    "down": (refused(503), Reason.HUB_UNREACHABLE),
    "senseless": (refused(418), Reason.HUB_MODEL_UNSUPPORTED),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_no_is_told_and_asked_again_for_as_long_as_somebody_wants_to_know(case: str, tmp_path: Path) -> None:
    fault, reason = REFUSALS[case]
    with serve(Site()) as site:
        a_llama().put_on(site)
        site.faults.append(fault)
        async with at_work(site, tmp_path) as (board, woken):
            board.of(KEY, NAME)
            await woken.get()
            answer = board.of(KEY, NAME)
            assert isinstance(answer, Trouble)
            assert answer.reason is reason
            await woken.get()
            assert isinstance(board.of(KEY, NAME), Model)


async def test_what_nobody_wants_to_know_any_more_is_not_asked_again(tmp_path: Path) -> None:
    with serve(Site()) as site:
        async with at_work(site, tmp_path) as (board, woken):
            board.of(KEY, "org/gone")
            await woken.get()
            a_llama().put_on(site)
            board.of(KEY, NAME)
            await woken.get()
        asked = Counter(path for _, path, _ in site.asked("GET", "/api/models"))
    assert asked["/api/models/org/gone/revision/main?blobs=true"] == 1


async def test_the_hub_is_not_asked_for_what_the_catalogue_has(tmp_path: Path) -> None:
    with serve(Site()) as site:
        a_llama().put_on(site)
        async with at_work(site, tmp_path) as (board, woken):
            assert board.of(KEY, "tiiuae/falcon-7b") is None
            board.of(KEY, NAME)
            await woken.get()
        assert all(NAME in path for _, path, _ in site.seen)
