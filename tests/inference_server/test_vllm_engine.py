"""vLLM behind our protocol, without vLLM: when it is chosen, what it is asked, and its answers as steps. Nothing here
says that it runs on a GPU, and the docs say so."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inference_server.engines.choice import Machine, choose
from inference_server.engines.engine import (
    EngineError,
    Failed,
    Generation,
    InvalidParameters,
    Load,
    Loading,
    Ready,
    ServedModel,
    Step,
    Stopped,
    TokenLogprob,
)
from inference_server.engines.vllm_engine import Piece, VllmEngine, Wanted, adapters, wanted
from inference_server.settings import Settings
from tests.inference_server.test_engine_contract import until
from tests.support.cluster import eventually
from tests.support.scripted_engine import WordTokenizer

BOTH = Machine(gpu=True, vllm=True)


@pytest.mark.parametrize(
    ("settings", "machine", "line"),
    [
        ({}, BOTH, "engine vllm (it is installed, and there is a GPU)"),
        ({"engine": "vllm"}, Machine(gpu=False, vllm=True), "engine vllm (asked for)"),
        ({}, Machine(gpu=True, vllm=False), "engine transformers (there is a GPU)"),
        ({"device_map": "cpu"}, BOTH, "engine transformers (the model is named by an id)"),
        ({"load_in_4bit": True}, BOTH, "engine transformers (quantised by bitsandbytes)"),
        ({"batching": "off"}, BOTH, "engine transformers (--batching=off)"),
        ({"adapter_strength": ["a=0.5"]}, BOTH, "engine transformers (there is a GPU)"),
        ({"engine": "transformers"}, BOTH, "engine transformers (asked for)"),
    ],
)
def test_vllm_is_chosen_where_it_is_installed_and_there_is_a_gpu(settings: Any, machine: Machine, line: str) -> None:
    lines: list[str] = []
    chosen = choose(Settings.model_validate(settings), say=lines.append, machine=machine)
    chosen.stop()
    assert [each.startswith(line) for each in lines] == [True], lines


PROMPT = (1, 2, 3)
TRANSLATED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "greedy": ({"do_sample": False}, {"temperature": 0.0}, {}),
    "sampled": (
        {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 4},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 4},
        {},
    ),
    "penalties and biases": (
        {"do_sample": True, "repetition_penalty": 1.1, "frequency_penalty": 1.0, "presence_penalty": -1.0,
         "logit_bias": {5: 2.0}},
        {"repetition_penalty": 1.1, "frequency_penalty": 1.0, "presence_penalty": -1.0, "logit_bias": {5: 2.0}},
        {},
    ),
    "ends": ({"do_sample": True, "eos_token_id": 2}, {"stop_token_ids": [2]}, {}),
    "several ends": ({"do_sample": True, "eos_token_id": [2, 9]}, {"stop_token_ids": [2, 9]}, {}),
    "a least length": ({"do_sample": True, "min_length": 10}, {"min_tokens": 7}, {}),
    "least new tokens": ({"do_sample": True, "min_new_tokens": 4}, {"min_tokens": 4}, {}),
    "no end": ({"do_sample": True, "ignore_eos": True}, {"ignore_eos": True}, {}),
    "probabilities": ({"do_sample": True, "top_logprobs": 3}, {"logprobs": 3}, {}),
    "several": ({"do_sample": True, "num_return_sequences": 2}, {"n": 2}, {}),
    "a schema": ({"do_sample": True, "json_schema": {"type": "object"}}, {}, {"json": {"type": "object"}}),
    "a grammar": ({"do_sample": True, "grammar": "start: x"}, {}, {"grammar": "start: x"}),
    "neutral": ({"do_sample": True, "num_beams": 1, "typical_p": 1.0, "pad_token_id": 2}, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", TRANSLATED)
def test_a_request_in_vllms_words(case: str) -> None:
    options, sampling, structured = TRANSLATED[case]
    found = wanted(Generation(PROMPT, 9, options, adapter="a"))
    assert found == Wanted(PROMPT, {**sampling, "max_tokens": 9, "detokenize": False}, structured, "a")


@pytest.mark.badinput
@pytest.mark.parametrize("options", [{"num_beams": 2}, {"typical_p": 0.5}, {"stop_strings": ["a"]}])
def test_what_only_transformers_can_do_is_said(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameters, match=f"{next(iter(options))} needs a server with --engine=transformers"):
        wanted(Generation(PROMPT, 9, options))


def test_adapters_without_safetensors_are_not_offered(tmp_path: Path) -> None:
    for name, file in (("one", "adapter_model.safetensors"), ("other", "adapter_model.bin")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / file).write_bytes(b"")
    assert adapters(tmp_path) == {"one": tmp_path / "one"}


class Recorded:
    """A Backend that gives what the test says, and remembers what it was asked."""

    def __init__(self, give: Callable[[Wanted], AsyncGenerator[Sequence[Piece]]]) -> None:
        self.served = ServedModel("recorded", WordTokenizer(), 64, {})
        self.asked: list[Wanted] = []
        self.closed = 0
        self.down = False
        self._give = give

    async def generate(self, asked: Wanted, request_id: str) -> AsyncGenerator[Sequence[Piece]]:
        self.asked.append(asked)
        try:
            async for pieces in self._give(asked):
                yield pieces
        finally:
            self.closed += 1

    def shutdown(self) -> None:
        self.down = True


@contextmanager
def engine_of(backend: Recorded) -> Iterator[VllmEngine]:
    engine = VllmEngine(Settings(), load=lambda _: backend)
    engine.start()
    try:
        eventually(lambda: not isinstance(engine.state, Loading), within=20, what="loaded")
        yield engine
    finally:
        engine.stop()
        eventually(lambda: backend.down, within=20, what="vLLM is shut down")


async def two(_: Wanted) -> AsyncGenerator[Sequence[Piece]]:
    yield [Piece(0, (5,), None, (TokenLogprob(-0.5, ((5, -0.5),)),)), Piece(1, (6, 7), "stop")]
    yield [Piece(0, (8,), "length")]


async def endless(asked: Wanted) -> AsyncGenerator[Sequence[Piece]]:
    yield [Piece(0, (1,), "length" if asked.sampling["max_tokens"] == 1 else None)]
    if asked.sampling["max_tokens"] > 1:
        await asyncio.Event().wait()


async def refused(asked: Wanted) -> AsyncGenerator[Sequence[Piece]]:
    if asked.sampling["max_tokens"] > 1:
        raise ValueError("top_p must\n be in (0, 1]")
    yield [Piece(0, (1,), "length")]


async def dying(asked: Wanted) -> AsyncGenerator[Sequence[Piece]]:
    if asked.sampling["max_tokens"] > 1:
        raise RuntimeError("EngineCore died")
    yield [Piece(0, (1,), "length")]


async def test_its_pieces_are_steps_and_it_is_ready_after_a_first_token() -> None:
    backend = Recorded(two)
    with engine_of(backend) as engine:
        assert engine.state == Ready(backend.served)
        assert [asked.sampling["max_tokens"] for asked in backend.asked] == [1]
        assert [step async for step in engine.generate(Generation(PROMPT, 9))] == [
            Step((5,), 0, None, (TokenLogprob(-0.5, ((5, -0.5),)),)),
            Step((6, 7), 1, "stop"),
            Step((8,), 0, "length"),
        ]
        assert engine.load == Load()


async def test_closing_the_iterator_aborts_and_stopping_ends_what_runs() -> None:
    backend = Recorded(endless)
    with engine_of(backend) as engine:
        steps = engine.generate(Generation(PROMPT, 9))
        await anext(steps)
        assert engine.load == Load(running=1)
        await steps.aclose()
        await until(lambda: backend.closed == 2)
        running = engine.generate(Generation(PROMPT, 9))
        await anext(running)
        engine.stop()
        with pytest.raises(Stopped):
            await anext(running)
        with pytest.raises(Stopped):
            await anext(engine.generate(Generation(PROMPT, 9)))


async def test_what_vllm_refuses_is_the_clients_fault_and_its_death_is_the_engines() -> None:
    with engine_of(Recorded(refused)) as engine:
        with pytest.raises(InvalidParameters, match=r"top_p must be in \(0, 1\]"):
            await anext(engine.generate(Generation(PROMPT, 9)))
        assert isinstance(engine.state, Ready)
    with engine_of(Recorded(dying)) as engine:
        with pytest.raises(EngineError, match="the engine failed on this request: RuntimeError"):
            await anext(engine.generate(Generation(PROMPT, 9)))
        assert engine.state == Failed("vLLM failed: RuntimeError")


def test_a_model_that_it_cannot_load_is_a_reason() -> None:
    def broken(_: Settings) -> Any:
        raise OSError("no file\n model.safetensors")

    engine = VllmEngine(Settings(), load=broken)
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=20, what="an end of loading")
    assert engine.state == Failed("OSError: no file model.safetensors")
