"""The inference server over HTTP with the embedded model: a closed loop at several concurrencies, engine by engine."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from bench.figures import Figure, measure
from local_cluster import model
from presets.catalog import load_catalog
from tests.support.ports import free_port
from tests.support.waiting import eventually

TOKENS = 64
ROUNDS = 3
CONCURRENCIES = (1, 8, 16)
CROWD = 200
COUNTRIES = """France Spain Italy Germany Poland Norway Chile Peru Brazil Japan China India Egypt Kenya Ghana Mali
Greece Turkey Iran Iraq Cuba Haiti Panama Canada Mexico Laos Nepal Oman Qatar Fiji Malta Cyprus"""
PROMPTS = [
    f"Question {i}: what is the capital of {country}? Answer in {i} words and tell me {i % 5 + 2} things about it."
    for i, country in enumerate(COUNTRIES.split())
]
PRESET = load_catalog().model("smollm2-135m-instruct")
BASELINE = ("--engine=transformers", "--batching=off")
NATIVE = ("--engine=native", *(f"--{key}={value}" for key, value in PRESET.arguments.items()))
"""As users have it."""
MEBIBYTE = 1 << 20


@contextlib.contextmanager
def server(
    *flags: str, directory: Path | None = None, within: float = 120
) -> Iterator[tuple[str, psutil.Process, float]]:
    """A server of our own process: its URL, the process, and the seconds until it was ready; of the embedded model
    unless a ``directory`` is given."""
    port, directory = free_port(), directory or model.find()
    argv = [sys.executable, "-m", "inference_server", f"--pretrained_model_name_or_path={directory}", f"--port={port}"]
    argv += ["--host=127.0.0.1", "--pipeline=conversational", "--torch_dtype=bfloat16", *flags]
    began = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: process.poll() is not None or _ready(url), within=within, what="the server")
            if process.poll() is not None:
                raise RuntimeError(f"the server ended before it was ready: {' '.join(argv)}")
            yield url, psutil.Process(process.pid), time.monotonic() - began
        finally:
            process.terminate()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(url: str, prompt: str) -> int:
    """The status of one answer of TOKENS tokens by /chat."""
    limits = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "max_length": 4096}
    body: dict[str, Any] = {"prompt": prompt, "generate_kwargs": limits}
    request = urllib.request.Request(
        f"{url}/chat", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def first_token(url: str, prompt: str) -> float:
    """Seconds to the first text of a streamed answer of TOKENS tokens; the rest is read to its end."""
    body = {
        "messages": [{"role": "user", "content": prompt}], "stream": True, "temperature": 0, "max_tokens": TOKENS,
        "ignore_eos": True,
    }  # fmt: skip
    began = time.monotonic()
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    while not _has_text(line := answer.readline()):
        if not line:
            raise RuntimeError(f"the stream ended with status {answer.status} and no text")
    first = time.monotonic() - began
    answer.read()
    connection.close()
    return first


def _has_text(line: bytes) -> bool:
    """Whether an event of a stream brings any of the answer."""
    _, data, event = line.partition(b"data: ")
    choices = json.loads(event)["choices"] if data and not event.startswith(b"[DONE]") else []
    return any(choice["delta"].get("content") for choice in choices)


def closed_loop(one: Callable[[str], Any], *, concurrency: int) -> tuple[float, list[Any], list[float]]:
    """Tokens a second, prefill included, with what each request gave and the seconds it took; at least four."""
    prompts = PROMPTS[: max(concurrency, 4)]

    def timed(prompt: str) -> tuple[Any, float]:
        began = time.monotonic()
        return one(prompt), time.monotonic() - began

    began = time.monotonic()
    with ThreadPoolExecutor(concurrency) as clients:
        found = list(clients.map(timed, prompts))
    seconds = time.monotonic() - began
    return len(prompts) * TOKENS / seconds, [each for each, _ in found], [each for _, each in found]


def tokens_per_second(url: str, *, concurrency: int) -> float:
    """Of whole answers by /chat."""
    return closed_loop(lambda prompt: ask(url, prompt), concurrency=concurrency)[0]


@measure("serving.")
def serving() -> Iterator[Figure]:
    """The native engine against the one-at-a-time engine, turn by turn in one run."""
    with server(*BASELINE) as (baseline, _, baseline_ready), server(*NATIVE) as (ours, process, ready):
        yield Figure("serving.ready_s", ready, "s", baseline_ready)
        for url in (baseline, ours):
            ask(url, PROMPTS[0])
        yield from _throughput(ours, baseline)
        yield from _streams(ours, baseline)
        yield Figure("serving.rss_mb", process.memory_info().rss / MEBIBYTE, "MiB")
        yield from _crowd(ours)
    with server(*BASELINE) as (baseline, _, _), server(*NATIVE, "--int4_small_batches=false") as (ours, _, _):
        pairs = [(tokens_per_second(ours, concurrency=1), tokens_per_second(baseline, concurrency=1)) for _ in range(4)]
        value, base = (median(column) for column in zip(*pairs[1:], strict=True))
        yield Figure("serving.bfloat16.c1.tokens_per_second", value, "tok/s", base)


def _throughput(ours: str, baseline: str) -> Iterator[Figure]:
    for concurrency in CONCURRENCIES:
        pairs = [
            (tokens_per_second(ours, concurrency=concurrency), tokens_per_second(baseline, concurrency=concurrency))
            for _ in range(ROUNDS)
        ]
        value, base = (median(column) for column in zip(*pairs, strict=True))
        yield Figure(f"serving.c{concurrency}.tokens_per_second", value, "tok/s", base)


def _streams(ours: str, baseline: str) -> Iterator[Figure]:
    """What streaming costs, and how long eight clients wait for their first token."""
    rounds = [
        (closed_loop(lambda p: first_token(ours, p), concurrency=8), tokens_per_second(ours, concurrency=8))
        for _ in range(ROUNDS)
    ]
    streamed, whole = median(loop[0] for loop, _ in rounds), median(speed for _, speed in rounds)
    yield Figure("serving.c8.streamed.tokens_per_second", streamed, "tok/s", whole)
    waited = closed_loop(lambda p: first_token(baseline, p), concurrency=8)[1]
    yield Figure("serving.c8.first_token_s", median(median(loop[1]) for loop, _ in rounds), "s", median(waited))


def _crowd(url: str) -> Iterator[Figure]:
    """200 clients at once on a server of the default flags: what they are told, and how long the slowest waits."""
    quiet = [seconds for _ in range(ROUNDS) for seconds in closed_loop(lambda p: ask(url, p), concurrency=16)[2]]

    def one(number: int) -> tuple[int, float]:
        began = time.monotonic()
        return ask(url, PROMPTS[number % len(PROMPTS)]), time.monotonic() - began

    with ThreadPoolExecutor(CROWD) as clients:
        found = list(clients.map(one, range(CROWD)))
    admitted = [seconds for status, seconds in found if status == 200]
    yield Figure("serving.crowd.answered", len(admitted), "of 200")
    yield Figure("serving.crowd.neither_200_nor_429", sum(status not in (200, 429) for status, _ in found), "of 200")
    p99, calm = (quantiles(each, n=100)[-1] for each in (admitted, quiet))
    yield Figure("serving.crowd.p99_s", p99, "s", calm)
