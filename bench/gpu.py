"""The native engine on a card, with a model of a real size: against transformers' continuous batching over HTTP, steps
as graphs against steps operation by operation, and against what the card's memory could give."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from bench import random_model
from bench.figures import Figure, measure
from bench.serving import ROUNDS, ask, server, tokens_per_second
from inference_server.engines.native.served import NativeModel
from inference_server.engines.sampler import Chooser, Sampling
from inference_server.settings import Settings
from presets.catalog import load_catalog

SIZE = os.environ.get("KAITO_GPU_BENCH", "")
"""tiny, 1b or 8b; else what the card has room for. Tiny runs without a card, to try the bench out."""
ROOM_FOR_8B = 36 << 30
CONCURRENCIES = (1, 8, 16, 32)
STEPS, PROMPT = 64, 100
LOADED_WITHIN = 900


@measure("gpu.", only_when_named=True)
def gpu() -> Iterator[Figure]:
    """All of it; a line and nothing where there is no card."""
    if not torch.cuda.is_available() and SIZE != "tiny":
        print("gpu: needs a card with CUDA, and here is none (KAITO_GPU_BENCH=tiny tries it out without)")
        return
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    size = SIZE or ("8b" if card and card.total_memory >= ROOM_FOR_8B else "1b")
    print(f"gpu: a llama of {size} on {card.name if card else 'processors'}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        read = random_model.write(directory, size, device=torch.device("cuda" if card else "cpu"))
        over_http, steps = list(_over_http(directory)), list(_steps(directory))
        yield from (*over_http, *steps)
        if card and (bandwidth := bandwidth_of(card.name, card.total_memory)):
            yield Figure("gpu.c1.share_of_bandwidth", 100 * over_http[0].value * read / bandwidth, "%")
            yield Figure("gpu.step.1.share_of_bandwidth", 100 * 1000 / steps[0].value * read / bandwidth, "%")


def bandwidth_of(name: str, total: int) -> float | None:
    """Bytes a second of a card's memory, by its driver's name for it and its size; None if the catalogue has not it."""
    words = name.replace("-", " ").split()
    known = {key: card for key, card in load_catalog().gpus.items() if key.split("-")[0] in words}
    near = min(known.values(), key=lambda card: abs(card.memory_gib * 2**30 - total), default=None)
    return near.bandwidth_gb_s * 1e9 if near else None


def _over_http(directory: Path) -> Iterator[Figure]:
    """One server after the other, for each takes the whole card."""
    found: dict[str, dict[int, float]] = {}
    for engine in ("transformers", "native"):
        with server(f"--engine={engine}", "--max_waiting=64", directory=directory, within=LOADED_WITHIN) as (url, _, _):
            ask(url, "Hello")
            found[engine] = {
                each: median(tokens_per_second(url, concurrency=each) for _ in range(ROUNDS)) for each in CONCURRENCIES
            }
    for each in CONCURRENCIES:
        yield Figure(
            f"gpu.c{each}.tokens_per_second", found["native"][each], "tok/s", baseline=found["transformers"][each]
        )


def _steps(directory: Path) -> Iterator[Figure]:
    """Milliseconds of a step of so many requests, as graphs and (the baseline) operation by operation."""
    found: dict[str, dict[int, float]] = {}
    for graphs in ("off", "auto"):
        settings = Settings(pretrained_model_name_or_path=str(directory), cuda_graphs=graphs)
        model = NativeModel.load(settings, say=lambda _: None)
        found[graphs] = {each: _step(model, requests=each) for each in CONCURRENCIES}
        del model
    for each in CONCURRENCIES:
        yield Figure(f"gpu.step.{each}_ms", found["auto"][each], "ms", baseline=found["off"][each])


def _step(model: NativeModel, *, requests: int) -> float:
    """The median of STEPS, each request at PROMPT tokens and more."""
    sequences = [
        model.sequence([5 + number] * PROMPT, STEPS + 2, Chooser(Sampling(temperature=0.0)))
        for number in range(requests)
    ]
    for sequence in sequences:
        model.add(sequence)
    while any(sequence.uncomputed > 1 or not sequence.output for sequence in sequences):
        model.step()
    spans = []
    for _ in range(STEPS // 2):
        began = time.perf_counter()
        model.step()  # its tokens are on this side when it returns
        spans.append(time.perf_counter() - began)
    for sequence in sequences:
        model.finish(sequence)
    return 1000 * median(spans)
