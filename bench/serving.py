"""The inference server over HTTP with the embedded model: a closed loop at several concurrencies."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from bench.figures import Figure, measure
from local_cluster import model
from tests.support.waiting import eventually

TOKENS = 64
ROUNDS = 3
CONCURRENCIES = (1, 8, 16)
COUNTRIES = """France Spain Italy Germany Poland Norway Chile Peru Brazil Japan China India Egypt Kenya Ghana Mali
Greece Turkey Iran Iraq Cuba Haiti Panama Canada Mexico Laos Nepal Oman Qatar Fiji Malta Cyprus"""
PROMPTS = [
    f"Question {i}: what is the capital of {country}? Answer in {i} words and tell me {i % 5 + 2} things about it."
    for i, country in enumerate(COUNTRIES.split())
]


@contextlib.contextmanager
def server(*flags: str, port: int) -> Iterator[str]:
    """A server of our own process, ready when this yields its URL."""
    argv = [
        sys.executable,
        "-m",
        "inference_server",
        f"--pretrained_model_name_or_path={model.find()}",
        f"--port={port}",
    ]
    argv += ["--host=127.0.0.1", "--pipeline=conversational", "--torch_dtype=bfloat16", "--max_waiting=64", *flags]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as process:
        try:
            eventually(lambda: _ready(f"http://127.0.0.1:{port}"), within=120, what="the server")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _ask(url: str, prompt: str) -> None:
    limits = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "max_length": 4096}
    body: dict[str, Any] = {"prompt": prompt, "generate_kwargs": limits}
    request = urllib.request.Request(
        f"{url}/chat", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()


def tokens_per_second(url: str, *, concurrency: int) -> float:
    """New tokens a second, prefill included: as many requests as there are clients, at least four."""
    prompts = PROMPTS[: max(concurrency, 4)]
    started = time.monotonic()
    with ThreadPoolExecutor(concurrency) as clients:
        list(clients.map(lambda prompt: _ask(url, prompt), prompts))
    return len(prompts) * TOKENS / (time.monotonic() - started)


@measure("serving.")
def serving() -> Iterator[Figure]:
    """The native engine against the one-at-a-time engine, turn by turn in one run."""
    with (
        server("--engine=transformers", "--batching=off", port=15001) as baseline,
        server("--engine=native", port=15002) as ours,
    ):
        _ask(baseline, PROMPTS[0])
        _ask(ours, PROMPTS[0])
        for concurrency in CONCURRENCIES:
            pairs = [
                (tokens_per_second(ours, concurrency=concurrency), tokens_per_second(baseline, concurrency=concurrency))
                for _ in range(ROUNDS)
            ]
            value, base = (median(column) for column in zip(*pairs, strict=True))
            yield Figure(f"serving.c{concurrency}.tokens_per_second", value, "tok/s", base)
