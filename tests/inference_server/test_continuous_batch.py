"""Continuous batching of transformers: each architecture of the list answers as ``generate`` does, one that does not is
found out by the check at the start, and what only ``generate`` can do is done beside the batch."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from inference_server.engines.batch_check import difference
from inference_server.engines.continuous_batch import ATTENTION, ContinuousBatch
from inference_server.engines.engine import EngineError, Generation, Loading, Ready
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings
from tests.inference_server.test_adapters import write_adapter
from tests.inference_server.test_engine_contract import GREEDY, PROMPT, generated, until
from tests.support.cluster import eventually

pytestmark = [
    pytest.mark.server,
    # peft 0.21 asks transformers 5.23 under a name that is on its way out.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "n_positions": 128, "n_inner": 64, "n_ctx": 128, "ffn_dim": 64, "word_embed_proj_dim": 32, "rotary_dim": 8,
    "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128, "num_local_experts": 2, "num_experts_per_tok": 1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""Every architecture takes of these what it knows."""
PROMPTS = ([5, 6, 7], list(range(10, 40)), [3] * 9)


def tiny(kind: str) -> Any:
    """A random model of an architecture, large enough in its numbers that no two tokens are nearly as likely."""
    torch.manual_seed(3)
    known = AutoConfig.for_model(kind)
    derived = {name for name, of in vars(type(known)).items() if isinstance(of, property)}
    settings = {key: value for key, value in SMALL.items() if hasattr(known, key) and key not in derived}
    config = AutoConfig.for_model(kind, **settings)
    attention = ATTENTION.get(kind, "eager")
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def told(error: Exception) -> EngineError:
    return EngineError(f"{type(error).__name__}: {error}")


def checked(model: Any) -> str:
    batch = ContinuousBatch(model, context=128, failed=told)
    try:
        return difference(model, batch, PROMPTS)
    finally:
        batch.close()


@pytest.mark.parametrize("kind", sorted(ATTENTION))
def test_each_architecture_of_the_list_answers_as_generate_does(kind: str) -> None:
    assert checked(tiny(kind)) == ""


@pytest.mark.parametrize("kind", ["bloom", "falcon", "gptj"])
def test_one_that_answers_otherwise_is_found_out(kind: str) -> None:
    assert "another token at place" in checked(tiny(kind))


@contextmanager
def engine_of(model: Path, **settings: Any) -> Iterator[TransformersEngine]:
    made = TransformersEngine(Settings(pretrained_model_name_or_path=str(model), device_map="cpu", **settings))
    made.start()
    try:
        eventually(lambda: not isinstance(made.state, Loading), within=60, what="the model is loaded")
        assert isinstance(made.state, Ready), made.state
        yield made
    finally:
        made.stop()


async def test_what_only_generate_can_do_is_done_beside_the_batch(tiny_model: Path) -> None:
    requests = [
        Generation(PROMPT, 8, {**GREEDY, "num_beams": 2}),
        Generation(PROMPT, 8, GREEDY),
        Generation(PROMPT, 8, {**GREEDY, "no_repeat_ngram_size": 1}),
        Generation(PROMPT, 8, {**GREEDY, "repetition_penalty": 1.5}),
    ]
    with engine_of(tiny_model) as engine, engine_of(tiny_model, batching="off") as alone:
        together = await asyncio.gather(*(generated(engine, request) for request in requests))
        assert together == [await generated(alone, request) for request in requests]


async def test_a_seed_repeats_an_answer_whatever_else_is_in_the_batch(tiny_model: Path) -> None:
    seeded = Generation(PROMPT, 12, {"do_sample": True, "seed": 7, "top_logprobs": 1})
    others = [Generation(PROMPT, 12, {"do_sample": True, "seed": seed}) for seed in range(6)]
    with engine_of(tiny_model) as engine:
        by_itself = await generated(engine, seeded)
        crowd = await asyncio.gather(*(generated(engine, request) for request in (seeded, *others)))
    assert crowd[0] == by_itself
    assert len({str(each) for each in crowd}) > 3


async def test_requests_are_computed_together(tiny_model: Path) -> None:
    """Each of three has a first token while none has its last: one at a time would not do that."""
    with engine_of(tiny_model) as engine:
        streams = [engine.generate(Generation(PROMPT, 40, GREEDY)) for _ in range(3)]
        first = [await anext(stream) for stream in streams]
        assert [step.finish for step in first] == [None] * 3
        for stream in streams:
            await stream.aclose()
        await until(lambda: engine.load.running == 0)


@pytest.mark.parametrize(("more", "reasons"), [({"batching": "off"}, []), ({}, ["there are adapters"])])
def test_without_the_batch_the_log_says_why(
    more: Any, reasons: list[str], tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_adapter(tiny_model, tmp_path / "one", target_modules=["q_proj"])
    with (
        caplog.at_level(logging.INFO, logger="inference_server"),
        engine_of(tiny_model, adapters_dir=str(tmp_path), **more) as engine,
    ):
        assert engine.load.cache_blocks is None
    said = [record.getMessage() for record in caplog.records if "one request at a time" in record.getMessage()]
    assert [said_one.split(": ")[1].split(",")[0] for said_one in said] == reasons


KILLERS: dict[str, Generation] = {
    "a temperature of 0": Generation(PROMPT, 4, {"do_sample": True, "temperature": 0.0}),
    "a top_k above the vocabulary": Generation(PROMPT, 4, {"do_sample": True, "top_k": 10_000}),
    "more tokens than the context has": Generation(PROMPT, 1_000_000, GREEDY),
    "the longest prompt": Generation((10,) * 63, 1_000_000, GREEDY),
}
"""What ends the thread of transformers' continuous batching, if it gets there (measured with transformers 5.23)."""


async def test_what_would_end_the_thread_does_not_get_there(tiny_model: Path) -> None:
    with engine_of(tiny_model) as engine:
        answers = await asyncio.gather(*(generated(engine, request) for request in KILLERS.values()))
        cold, drawn, long, last = (len(answer[0][0]) for answer in answers)
        assert (cold, long, last) == (4, 60, 1)
        assert 1 <= drawn <= 4  # what is drawn may end the text
        assert await generated(engine, KILLERS["the longest prompt"]) == answers[3]
        await until(lambda: engine.load.running == 0)
