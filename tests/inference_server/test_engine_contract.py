"""What every engine promises. To test another one, add a way to make it to ``MADE``; it serves the tiny model."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from inference_server.engines.engine import (
    Engine,
    EngineError,
    Failed,
    Generation,
    InvalidParameters,
    Loading,
    Ready,
    Stopped,
)
from inference_server.engines.native_engine import NativeEngine
from inference_server.engines.supervision import Failures
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings
from tests.support.cluster import eventually
from tests.support.tiny_model import CONTEXT, write_tiny_model


def one_at_a_time(settings: Settings) -> Engine:
    return TransformersEngine(settings.model_copy(update={"batching": "off"}))


MADE: dict[str, Callable[[Settings], Engine]] = {
    "transformers": TransformersEngine,
    "one at a time": one_at_a_time,
    "native": NativeEngine,
}
PROMPT = (10, 20, 30, 40)
GREEDY = {"do_sample": False}
ENDLESS = Generation(PROMPT, 1_000_000, GREEDY)
"""Which the end of the context ends, if it comes so far."""


@contextmanager
def serving(made: str, model: Path) -> Iterator[Engine]:
    engine = MADE[made](Settings(pretrained_model_name_or_path=str(model), device_map="cpu"))
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=60, what="the model is loaded")
    yield engine
    engine.stop()


@pytest.fixture(params=MADE)
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Engine]:
    with serving(request.param, tiny_model) as made:
        yield made


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("wide"), context=20_000)


@pytest.fixture(params=MADE)
def tireless(request: pytest.FixtureRequest, wide_model: Path) -> Iterator[Engine]:
    """One that is still at ENDLESS whenever a busy machine gets round to looking."""
    with serving(request.param, wide_model) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.01)


async def generated(engine: Engine, request: Generation) -> dict[int, tuple[list[int], str | None]]:
    """Tokens and reason of the end, of each sequence."""
    tokens: dict[int, list[int]] = {}
    ends: dict[int, str | None] = {}
    async with aclosing(engine.generate(request)) as steps:
        async for step in steps:
            tokens.setdefault(step.sequence, []).extend(step.tokens)
            ends[step.sequence] = step.finish
    return {number: (tokens[number], ends[number]) for number in tokens}


def reference(tiny_model: Path, **options: Any) -> list[list[int]]:
    """What transformers generates after PROMPT when it is asked directly."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompt = torch.tensor([PROMPT])
    made = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    continued: list[list[int]] = made[:, len(PROMPT) :].tolist()
    return continued


async def test_a_started_engine_becomes_ready_and_says_what_it_serves(engine: Engine, tiny_model: Path) -> None:
    assert isinstance(engine.state, Ready)
    served = engine.state.model
    assert (served.name, served.context_length) == (tiny_model.name, CONTEXT)
    assert served.defaults["eos_token_id"] == 2
    assert served.tokenizer.decode(served.tokenizer.encode("w5 w6")) == "w5 w6"


async def test_greedy_tokens_are_those_of_transformers(engine: Engine, tiny_model: Path) -> None:
    found = await generated(engine, Generation(PROMPT, 12, GREEDY))
    assert found == {0: (reference(tiny_model, max_new_tokens=12, **GREEDY)[0], "length")}


async def test_requests_at_the_same_time_do_not_disturb_each_other(engine: Engine, tiny_model: Path) -> None:
    wanted = (reference(tiny_model, max_new_tokens=12, **GREEDY)[0], "length")
    found = await asyncio.gather(*(generated(engine, Generation(PROMPT, 12, GREEDY)) for _ in range(8)))
    assert found == [{0: wanted}] * 8


async def test_a_token_that_ends_the_sequence_ends_it(engine: Engine, tiny_model: Path) -> None:
    tokens = reference(tiny_model, max_new_tokens=12, **GREEDY)[0]
    end = tokens[5]
    found = await generated(engine, Generation(PROMPT, 12, {**GREEDY, "eos_token_id": [end]}))
    assert found == {0: (tokens[: tokens.index(end) + 1], "stop")}


@pytest.mark.parametrize(
    "engine", ["transformers", "one at a time"], indirect=True
)  # the native engine has no beams, and says so
async def test_several_beams_each_have_their_own_end(engine: Engine, tiny_model: Path) -> None:
    options = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    wanted = reference(tiny_model, max_new_tokens=6, **options)
    found = await generated(engine, Generation(PROMPT, 6, options))
    assert found == {number: (tokens, "length") for number, tokens in enumerate(wanted)}


async def test_sampled_sequences_come_as_many_as_were_asked_for(engine: Engine) -> None:
    found = await generated(engine, Generation(PROMPT, 6, {"do_sample": True, "top_k": 5, "num_return_sequences": 3}))
    assert sorted(found) == [0, 1, 2]
    assert all(1 <= len(tokens) <= 6 for tokens, _ in found.values())


async def test_options_that_contradict_each_other_fail_this_request_alone(engine: Engine, tiny_model: Path) -> None:
    with pytest.raises(InvalidParameters, match="num_return_sequences"):
        await generated(engine, Generation(PROMPT, 2, {**GREEDY, "num_return_sequences": 2}))
    assert (await generated(engine, Generation(PROMPT, 2, GREEDY)))[0][1] == "length"


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_who_closes_the_iterator_ends_the_generation(tireless: Engine, after: int) -> None:
    async with asyncio.timeout(120):
        steps = tireless.generate(ENDLESS)
        for _ in range(after):
            await anext(steps)
        await steps.aclose()
        assert (await generated(tireless, Generation(PROMPT, 2, GREEDY)))[0][1] == "length"


async def test_a_waiting_request_can_be_given_up(tireless: Engine) -> None:
    async with asyncio.timeout(120):
        running = tireless.generate(ENDLESS)
        await anext(running)
        waiting = asyncio.ensure_future(generated(tireless, ENDLESS))
        await asyncio.sleep(0)
        waiting.cancel()
        await running.aclose()
        assert (await generated(tireless, Generation(PROMPT, 2, GREEDY)))[0][1] == "length"


async def test_a_generation_that_was_given_up_leaves_nothing_behind(tireless: Engine) -> None:
    before = tireless.load
    steps = tireless.generate(ENDLESS)
    await anext(steps)
    assert tireless.load.running == 1
    await steps.aclose()
    await until(lambda: tireless.load == before)


async def test_stopping_ends_what_runs_and_what_waits_and_takes_nothing_new(tireless: Engine) -> None:
    async with asyncio.timeout(120):
        running = tireless.generate(ENDLESS)
        await anext(running)
        waiting = asyncio.ensure_future(generated(tireless, ENDLESS))
        await asyncio.sleep(0)
        tireless.stop()
        with pytest.raises(Stopped):
            async for _ in running:
                pass
        with pytest.raises(Stopped):
            await waiting
        with pytest.raises(Stopped):
            await generated(tireless, Generation(PROMPT, 2, GREEDY))


UNKNOWN_TOKEN = Generation((10, 10_000), 2, GREEDY)
"""The server lets no such id through; a fault of torch's is what it makes."""


async def test_a_fault_ends_its_request_and_the_next_is_answered(engine: Engine, tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=r"the engine failed on .*: IndexError"):
        await generated(engine, UNKNOWN_TOKEN)
    wanted = (reference(tiny_model, max_new_tokens=12, **GREEDY)[0], "length")
    assert await generated(engine, Generation(PROMPT, 12, GREEDY)) == {0: wanted}
    assert isinstance(engine.state, Ready)


async def test_the_third_fault_within_ten_minutes_ends_the_engine(engine: Engine) -> None:
    for _ in range(3):
        with pytest.raises(EngineError):
            await generated(engine, UNKNOWN_TOKEN)
    assert engine.state == Failed("it failed three times within ten minutes; the log has the reasons")


def test_three_faults_far_apart_are_not_too_many() -> None:
    times = iter([0.0, 300.0, 601.0, 899.0])
    failures = Failures(clock=lambda: next(times))
    found = []
    for _ in range(4):
        failures.add()
        found.append(failures.too_many)
    assert found == [False, False, False, True]


@pytest.mark.badinput
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("no directory", "OSError"),
        ("no weights", "OSError.*safetensors"),
        ("weights cut short", "SafetensorError"),
        ("pickled weights", "OSError.*safetensors"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_reason_and_not_a_crash(
    make: Callable[[Settings], Engine], broken: str, reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    if broken != "no directory":
        directory.mkdir()
        for file in tiny_model.iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
        weights = directory / "model.safetensors"
        if broken == "weights cut short":
            weights.write_bytes(weights.read_bytes()[:1000])
        else:
            weights.unlink()
        if broken == "pickled weights":
            torch.save({}, directory / "pytorch_model.bin")
    engine = make(Settings(pretrained_model_name_or_path=str(directory), device_map="cpu"))
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=60, what="an end of loading")
    engine.stop()
    state = engine.state
    assert isinstance(state, Failed)
    assert "\n" not in state.reason
    assert re.search(reason, state.reason), state.reason
