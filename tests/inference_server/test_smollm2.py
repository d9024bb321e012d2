"""The embedded model behind the server: right answers over HTTP."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from presets.catalog import load_catalog
from tests.support.serving import ServerProcess, serving

pytestmark = pytest.mark.server

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
GREEDY = {"do_sample": False}


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """As the preset starts it."""
    preset = load_catalog().model("smollm2-135m-instruct")
    flags = [f"--{key}={value}" for key, value in sorted(preset.arguments.items())]
    with serving(smollm2, *flags, log=tmp_path_factory.mktemp("server") / "log") as process:
        process.wait_until("/readyz")
        yield process
        assert process.terminate() == 0


def chat(server: ServerProcess, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/chat", json=body, timeout=120)


def test_it_knows_the_capital_of_france(server: ServerProcess) -> None:
    reply = chat(server, messages=[{"role": "user", "content": QUESTION}], generate_kwargs=GREEDY)
    assert (reply.status_code, reply.json()) == (200, {"Result": ANSWER})


def test_a_single_prompt_is_answered_too(server: ServerProcess) -> None:
    reply = chat(server, prompt=QUESTION, return_full_text=False, generate_kwargs={**GREEDY, "max_length": 60})
    assert reply.json() == {"Result": ANSWER}


def test_it_remembers_what_was_said(server: ServerProcess) -> None:
    turns = [
        {"role": "user", "content": "My name is Zoltan."},
        {"role": "assistant", "content": "Hello Zoltan!"},
        {"role": "user", "content": "What is my name?"},
    ]
    assert "Zoltan" in chat(server, messages=turns, generate_kwargs=GREEDY).json()["Result"]


def test_the_answer_is_as_long_as_asked(server: ServerProcess) -> None:
    before = generated(server)
    body = {"max_new_tokens": 24, "min_new_tokens": 24}
    assert chat(server, prompt="Tell me a story.", generate_kwargs={**GREEDY, **body}).status_code == 200
    assert generated(server) - before == 24


def generated(server: ServerProcess) -> float:
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("kaito_inference_generated_tokens_total")))


def test_a_crowd_gets_answers_or_429_and_the_probes_answer_all_the_while(server: ServerProcess) -> None:
    limits, body = httpx.Limits(max_connections=None), {**GREEDY, "max_new_tokens": 48, "min_new_tokens": 48}

    def ask(_: int) -> httpx.Response:
        return client.post(f"{server.url}/chat", json={"prompt": QUESTION, "generate_kwargs": body})

    with httpx.Client(limits=limits, timeout=300) as client, ThreadPoolExecutor(64) as crowd:
        replies = crowd.map(ask, range(96))
        probes = [httpx.get(f"{server.url}/healthz", timeout=120).status_code for _ in range(20)]
        found = list(replies)
    assert set(probes) == {200}
    assert {reply.status_code for reply in found} == {200, 429}
    assert all(reply.json()["Result"].startswith(ANSWER) for reply in found if reply.status_code == 200)
    assert all("retry-after" in reply.headers for reply in found if reply.status_code == 429)


@pytest.mark.badinput
def test_a_prompt_longer_than_the_context_is_refused_at_once(server: ServerProcess) -> None:
    reply = chat(server, prompt="word " * 200_000)
    assert reply.status_code == 400
    assert "prompt and answer together may have 8192: shorten it" in reply.json()["detail"]


@pytest.mark.badinput
def test_a_body_of_100_megabytes_is_refused(server: ServerProcess) -> None:
    body = json.dumps({"prompt": "a" * 100_000_000})
    try:
        reply = httpx.post(f"{server.url}/chat", content=body, headers={"Content-Type": "application/json"}, timeout=60)
    except (httpx.WriteError, httpx.ReadError):  # the server answers and closes while we still send
        return
    assert reply.status_code == 413
