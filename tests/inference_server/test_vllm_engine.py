"""vLLM behind our protocol, without vLLM: when it is chosen, how it is set up, what it is asked, and its life. Real
vLLM is in test_vllm.py."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from inference_server.engines.choice import Machine, NoSuchEngine, choose
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
from inference_server.engines.vllm_arguments import arguments, together
from inference_server.engines.vllm_engine import VllmEngine
from inference_server.engines.vllm_request import Wanted, wanted
from inference_server.settings import Settings, parse
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
        ({"device_map": "cuda:1"}, BOTH, "engine transformers (there is a GPU)"),
        ({"torch_dtype": "float64"}, BOTH, "engine transformers (--torch_dtype=float64)"),
        ({"load_in_4bit": True}, BOTH, "engine transformers (quantised by bitsandbytes)"),
        ({"batching": "off"}, BOTH, "engine transformers (--batching=off)"),
        ({"adapter_strength": ["a=0.5"]}, BOTH, "engine vllm (it is installed, and there is a GPU)"),
        ({"engine": "transformers"}, BOTH, "engine transformers (asked for)"),
    ],
)
def test_vllm_is_chosen_where_it_is_installed_and_there_is_a_gpu(settings: Any, machine: Machine, line: str) -> None:
    lines: list[str] = []
    chosen = choose(Settings.model_validate(settings), say=lines.append, machine=machine)
    chosen.stop()
    assert [each.startswith(line) for each in lines] == [True], lines


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"load_in_8bit": True}, "--load_in_4bit and --load_in_8bit: leave them out, or use --engine=transformers"),
        ({"torch_dtype": "float64"}, "--torch_dtype=float64: use --engine=transformers"),
        ({"device_map": "cpu"}, "--device_map=cpu: vLLM is built for one kind of device; leave it out"),
        ({"device_map": "cuda:1"}, "--device_map=cuda:1: say which cards by CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_vllm_cannot_do_is_said_where_it_is_asked_for(settings: Any, said: str) -> None:
    asked = Settings.model_validate({"engine": "vllm", **settings})
    with pytest.raises(NoSuchEngine, match=f"^{re.escape(f'--engine=vllm does not go with {said}')}$"):
        choose(asked, say=print, machine=BOTH)


def configuration(**settings: Any) -> Any:
    """Of a llama; transformers' own class."""
    return LlamaConfig(**{"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, **settings})


ALWAYS = {
    "model": "model",
    "tokenizer_mode": "hf",
    "trust_remote_code": False,
    "load_format": "safetensors",
    "dtype": "auto",
    "generation_config": "vllm",
    "max_model_len": -1,
    "tensor_parallel_size": 1,
    "max_logprobs": 20,
    "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
    "enable_log_requests": False,
    "disable_log_stats": True,
    "enable_lora": False,
}


@pytest.mark.parametrize(
    ("settings", "cards", "ranks", "changed"),
    [
        ({}, 0, [], {}),
        ({}, 8, [], {"tensor_parallel_size": 8}),
        ({"device_map": "cuda:0"}, 8, [], {}),
        ({"torch_dtype": "float16"}, 1, [], {"dtype": "float16"}),
        ({"torch_dtype": "bfloat16"}, 1, [], {}),  # as the checkpoint is: auto also knows cards without it
        ({"batching": "off"}, 1, [], {"max_num_seqs": 1}),
        ({"trust_remote_code": True}, 1, [], {"trust_remote_code": True}),
        (
            {},
            1,
            [16, 17],
            {"enable_lora": True, "max_loras": 2, "max_cpu_loras": 2, "max_lora_rank": 32},
        ),
        ({}, 1, [8] * 20, {"enable_lora": True, "max_loras": 8, "max_cpu_loras": 20, "max_lora_rank": 8}),
        ({}, 0, [8], {"enable_lora": True, "max_loras": 2, "max_cpu_loras": 2, "max_lora_rank": 8}),
        (
            {"vllm_option": ["gpu-memory-utilization=0.8", "max_model_len=4096", "kv_cache_dtype=fp8"]},
            1,
            [],
            {"gpu_memory_utilization": 0.8, "max_model_len": 4096, "kv_cache_dtype": "fp8"},
        ),
    ],
)
def test_what_the_settings_are_in_vllms_words(settings: Any, cards: int, ranks: list[int], changed: Any) -> None:
    found = arguments(
        Settings.model_validate(settings),
        source=Path("model"),
        configuration=configuration(dtype="bfloat16"),
        cards=cards,
        ranks=ranks,
    )
    assert found == {**ALWAYS, **changed}


def test_a_checkpoint_in_float32_is_computed_so_unless_something_else_is_asked_for() -> None:
    model = configuration(dtype="float32")
    found = [
        arguments(Settings(torch_dtype=asked), source=Path("m"), configuration=model, cards=1, ranks=())["dtype"]
        for asked in ("auto", "bfloat16")
    ]
    assert found == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("heads", "shared", "width", "cards", "used"),
    [
        (32, 8, 14336, 8, 8),
        (32, 8, 14336, 3, 2),
        (28, 4, 18944, 8, 4),  # Qwen 2.5 7B
        (71, 1, 18176, 2, 1),  # Falcon 7B
        (64, 8, 28672, 16, 16),  # each head of the cache twice
        (32, 8, 14336, 0, 1),
    ],
)
def test_a_layer_is_spread_over_as_many_cards_as_divide_it(
    heads: int, shared: int, width: int, cards: int, used: int
) -> None:
    sizes = {"num_key_value_heads": shared, "intermediate_size": width, "hidden_size": heads * 64}
    assert together(configuration(num_attention_heads=heads, **sizes), cards=cards) == used


@pytest.mark.badinput
def test_what_the_server_sets_itself_is_no_option() -> None:
    asked = Settings.model_validate({"vllm_option": ["load_format=auto"]})
    with pytest.raises(ValueError, match=r"^--vllm_option=load_format: the server sets this itself, by its own flags$"):
        arguments(asked, source=Path("m"), configuration=configuration(), cards=1, ranks=())


@pytest.mark.badinput
@pytest.mark.parametrize("written", ["max_model_len", "=1"])
def test_an_option_without_a_name_or_a_value_ends_the_process(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"--vllm_option={written}"])
    assert f"write NAME=VALUE, not {written}" in capsys.readouterr().err


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
    "several ends": ({"do_sample": True, "eos_token_id": [9, 2]}, {"stop_token_ids": [9, 2]}, {}),
    "a cut that leaves one token": ({"do_sample": True, "top_p": 0.0, "top_k": 5}, {"top_k": 1}, {}),
    "a cut that leaves all": ({"do_sample": True, "top_k": 10**30}, {"top_k": 2**31 - 1}, {}),
    "a seed that is none to vLLM": ({"do_sample": True, "seed": -1}, {"seed": 2**63 - 1}, {}),
    "a least length": ({"do_sample": True, "min_length": 10}, {"min_tokens": 7}, {}),
    "least new tokens": ({"do_sample": True, "min_new_tokens": 4}, {"min_tokens": 4}, {}),
    "no end": ({"do_sample": True, "ignore_eos": True}, {"stop_token_ids": None}, {}),
    "probabilities": ({"do_sample": True, "top_logprobs": 3}, {"logprobs": 3}, {}),
    "probabilities of the prompt": ({"do_sample": True, "prompt_logprobs": 0}, {"prompt_logprobs": 0}, {}),
    "several": ({"do_sample": True, "num_return_sequences": 2}, {"n": 2}, {}),
    "a schema": (
        {"do_sample": True, "json_schema": {"type": "object"}, "min_new_tokens": 9},
        {},
        {"json": {"type": "object"}},
    ),
    "a grammar": (
        {"do_sample": True, "grammar": "start: x"},
        {},
        {"grammar": "start: x"},
    ),
    "neutral": ({"do_sample": True, "num_beams": 1, "typical_p": 1.0, "pad_token_id": 2}, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", TRANSLATED)
def test_a_request_in_vllms_words(case: str) -> None:
    options, sampling, structured = TRANSLATED[case]
    found = wanted(Generation(PROMPT, 9, options, adapter="a"), ends=(7,))
    always = {"stop_token_ids": [7], "ignore_eos": True, "max_tokens": 9, "detokenize": False}
    asked = {key: value for key, value in {**always, **sampling}.items() if value is not None}
    assert found == Wanted(PROMPT, asked, structured, "a")


@pytest.mark.badinput
@pytest.mark.parametrize("options", [{"num_beams": 2}, {"typical_p": 0.5}, {"stop_strings": ["a"]}])
def test_what_only_transformers_can_do_is_said(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameters, match=f"{next(iter(options))} needs a server with --engine=transformers"):
        wanted(Generation(PROMPT, 9, options), ends=())


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"do_sample": True, "temperature": 2.5}, "temperature: at most 2 with --engine=vllm"),
        ({"num_return_sequences": 2}, "num_return_sequences above 1 needs do_sample"),
    ],
)
def test_what_vllm_refuses_is_said_in_our_words(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        wanted(Generation(PROMPT, 9, options), ends=())


class Recorded:
    """A Backend that gives what the test says, and remembers what it was asked."""

    def __init__(self, give: Callable[[Wanted], AsyncGenerator[Step]]) -> None:
        self.served = ServedModel("recorded", WordTokenizer(), 64, {})
        self.ends = (2,)
        self.load = Load(cache_blocks=8)
        self.dead = self.prepared = self.down = False
        self.asked: list[Wanted] = []
        self.closed = 0
        self._give = give

    async def prepare(self) -> None:
        self.prepared = True

    async def generate(self, asked: Wanted, request_id: str) -> AsyncGenerator[Step]:
        self.asked.append(asked)
        try:
            async for step in self._give(asked):
                yield step
        finally:
            self.closed += 1

    def shutdown(self) -> None:
        self.down = True


@contextmanager
def engine_of(*lives: Recorded) -> Iterator[VllmEngine]:
    """An engine that gets these backends one after the other."""
    left = iter(lives)
    engine = VllmEngine(Settings(), load=lambda _: next(left))
    engine.start()
    try:
        eventually(lambda: not isinstance(engine.state, Loading), within=20, what="loaded")
        yield engine
    finally:
        engine.stop()
        eventually(lambda: lives[0].down, within=20, what="vLLM is shut down")


LAST = Step((1,), 0, "length")


def first(asked: Wanted) -> bool:
    """Whether this is the engine's own first token."""
    return bool(asked.sampling["max_tokens"] == 1)


async def two(_: Wanted) -> AsyncGenerator[Step]:
    yield Step((5,), 0, None, (TokenLogprob(-0.5, ((5, -0.5),)),))
    yield Step((6, 7), 1, "stop")
    yield Step((8,), 0, "length")


async def endless(asked: Wanted) -> AsyncGenerator[Step]:
    yield LAST if first(asked) else Step((1,))
    if not first(asked):
        await asyncio.Event().wait()


async def refused(asked: Wanted) -> AsyncGenerator[Step]:
    if not first(asked):
        raise ValueError("top_p must\n be in (0, 1]")
    yield LAST


async def faulty(asked: Wanted) -> AsyncGenerator[Step]:
    if not first(asked):
        raise RuntimeError("of this request")
    yield LAST


async def test_its_steps_are_the_answer_and_it_is_ready_after_a_first_token() -> None:
    backend = Recorded(two)
    with engine_of(backend) as engine:
        assert engine.state == Ready(backend.served)
        assert ([asked.sampling["max_tokens"] for asked in backend.asked], backend.prepared) == ([1], True)
        assert [step async for step in engine.generate(Generation(PROMPT, 9))] == [
            step async for step in two(backend.asked[0])
        ]
        assert engine.load == Load(cache_blocks=8)


async def test_closing_the_iterator_aborts_and_stopping_ends_what_runs() -> None:
    backend = Recorded(endless)
    with engine_of(backend) as engine:
        steps = engine.generate(Generation(PROMPT, 9))
        await anext(steps)
        assert engine.load == Load(running=1, cache_blocks=8)
        await steps.aclose()
        await until(lambda: backend.closed == 2)
        running = engine.generate(Generation(PROMPT, 9))
        await anext(running)
        engine.stop()
        with pytest.raises(Stopped):
            await anext(running)
        with pytest.raises(Stopped):
            await anext(engine.generate(Generation(PROMPT, 9)))


async def test_what_waits_is_what_vllm_says_of_those_that_have_no_token() -> None:
    backend = Recorded(endless)
    with engine_of(backend) as engine:
        backend.load = Load(running=0, waiting=5, cache_blocks=8, cache_blocks_used=3)
        steps = engine.generate(Generation(PROMPT, 9, {"do_sample": True, "num_return_sequences": 3}))
        coming = asyncio.ensure_future(anext(steps))
        await until(lambda: engine.load.waiting + engine.load.running == 3)
        await coming
        assert engine.load == Load(running=3, waiting=0, cache_blocks=8, cache_blocks_used=3)
        await steps.aclose()


async def test_what_vllm_refuses_is_the_clients_fault_and_three_of_its_own_end_the_engine() -> None:
    with engine_of(Recorded(refused)) as engine:
        with pytest.raises(InvalidParameters, match=r"top_p must be in \(0, 1\]"):
            await anext(engine.generate(Generation(PROMPT, 9)))
        assert isinstance(engine.state, Ready)
    with engine_of(Recorded(faulty)) as engine:
        for _ in range(3):
            assert isinstance(engine.state, Ready)
            with pytest.raises(EngineError, match="the engine failed on this request: RuntimeError"):
                await anext(engine.generate(Generation(PROMPT, 9)))
        assert engine.state == TOO_OFTEN


TOO_OFTEN = Failed("it failed three times within ten minutes; the log has the reasons")


async def test_a_dead_vllm_is_started_again_and_what_ran_in_it_fails() -> None:
    lives = [Recorded(endless) for _ in range(3)]
    with engine_of(*lives) as engine:
        for life in lives:
            await until(lambda life=life: engine.state == Ready(life.served) and life.prepared)  # type: ignore[misc]
            running = engine.generate(Generation(PROMPT, 9))
            await anext(running)
            life.dead = True
            with pytest.raises(EngineError, match="the engine failed on this request"):
                await anext(running)
            await until(lambda life=life: life.down)  # type: ignore[misc]
        assert engine.state == TOO_OFTEN
        assert engine.load == Load()


def test_a_model_that_it_cannot_load_is_a_reason() -> None:
    def broken(_: Settings) -> Any:
        raise OSError("no file\n model.safetensors")

    engine = VllmEngine(Settings(), load=broken)
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=20, what="an end of loading")
    assert engine.state == Failed("OSError: no file model.safetensors")
