"""``python -m inference_server`` as a process: start, signals, ends; over the tiny model, which loads at once."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from inference_server.__main__ import _listen
from tests.support.cluster import eventually
from tests.support.ports import free_port
from tests.support.serving import ROOT, ServerProcess, serving

pytestmark = pytest.mark.server


def inside(server: ServerProcess) -> bool:
    return "kaito_inference_requests_inside 1.0" in httpx.get(f"{server.url}/metrics", timeout=60).text


ENDLESS = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}


def blocks_held(server: ServerProcess) -> float:
    lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("kaito_inference_cache_blocks_used ")))


def test_what_the_server_writes_leaves_at_once() -> None:
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_port_is_open_before_the_model_is_loaded_and_readiness_follows(tiny_model: Path, tmp_path: Path) -> None:
    """The order is read from the log: the tiny model loads faster than a busy machine gets round to asking."""
    with serving(tiny_model, log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        assert server.terminate() == 0
    log = (tmp_path / "log").read_text()
    assert log.count("engine native (the model is of a family it knows)") == 1
    assert 0 < log.index("listening on 127.0.0.1 port ") < log.index(f"{tiny_model} packed on ")


def test_a_signal_while_the_model_loads_ends_the_process_at_once(tiny_model: Path, tmp_path: Path) -> None:
    with serving(tiny_model, log=tmp_path / "log") as server:
        server.wait_until("/healthz")
        assert server.terminate() == 0


def test_after_sigterm_running_answers_are_finished_and_nothing_new_is_taken(smollm2: Path, tmp_path: Path) -> None:
    """The answer is long enough for all that is looked at while it is made."""
    body = {"prompt": "Once upon a time", "generate_kwargs": {"max_new_tokens": 600, "min_new_tokens": 600}}
    with serving(smollm2, "--grace_seconds=120", log=tmp_path / "log") as server, ThreadPoolExecutor(1) as pool:
        server.wait_until("/readyz")
        running = pool.submit(httpx.post, f"{server.url}/chat", json=body, timeout=300)
        eventually(lambda: inside(server), within=30, what="the request is running")
        server.process.terminate()
        eventually(lambda: server.status("/readyz") == 503, within=30, what="not ready")
        late = httpx.post(f"{server.url}/chat", json=body, timeout=60)
        assert (late.status_code, late.json()["detail"]) == (503, "the server is about to stop")
        assert running.result().status_code == 200
        assert server.process.wait(60) == 0


def test_what_is_not_finished_within_the_grace_period_is_cut_short(smollm2: Path, tmp_path: Path) -> None:
    body = {"prompt": "Once upon a time", "generate_kwargs": {"max_new_tokens": 4000, "min_new_tokens": 4000}}
    with serving(smollm2, "--grace_seconds=0.5", log=tmp_path / "log") as server, ThreadPoolExecutor(1) as pool:
        server.wait_until("/readyz")
        running = pool.submit(httpx.post, f"{server.url}/chat", json=body, timeout=60)
        eventually(lambda: inside(server), within=30, what="the request is running")
        assert server.terminate() == 0
        assert (running.result().status_code, running.result().json()) == (503, {"detail": "the server stops"})


def test_a_client_that_goes_away_stops_the_generation(smollm2: Path, tmp_path: Path) -> None:
    body = {"prompt": "Once upon a time", "generate_kwargs": {"max_new_tokens": 4000, "min_new_tokens": 4000}}
    with serving(smollm2, log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/chat", json=body, timeout=0.5)
        eventually(lambda: not inside(server), within=30, what="the place is free")
        eventually(lambda: blocks_held(server) == 0, within=30, what="its blocks are free")
        for words in (0, 1, 5):
            with httpx.stream("POST", f"{server.url}/v1/completions", json=ENDLESS, timeout=60) as reply:
                for _, _ in zip(range(words), filter(None, reply.iter_lines()), strict=False):
                    assert blocks_held(server) > 0
            eventually(lambda: blocks_held(server) == 0 and not inside(server), within=30, what="nothing is held")
        short = {"prompt": "Once", "generate_kwargs": {"max_new_tokens": 1}}
        assert httpx.post(f"{server.url}/chat", json=short, timeout=60).status_code == 200
        assert server.terminate() == 0


@pytest.mark.badinput
def test_a_directory_without_a_model_ends_the_process_with_one_line(tmp_path: Path) -> None:
    with serving(tmp_path / "nothing", log=tmp_path / "log") as server:
        assert server.process.wait(60) == 1
    assert f"{tmp_path}/nothing cannot be served: OSError: " in (tmp_path / "log").read_text().splitlines()[-1]


@pytest.mark.badinput
def test_a_port_that_is_taken_is_said_before_anything_is_loaded(tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--host=127.0.0.1", f"--port={port}", f"--pretrained_model_name_or_path={tiny_model}")
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in ended.stderr.splitlines()[-1]


def test_health_and_metrics_can_have_a_port_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    port = free_port()
    with serving(tiny_model, f"--health_port={port}", log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        other = f"http://127.0.0.1:{port}"
        paths = ("/healthz", "/readyz", "/metrics", "/chat")
        told = {path: httpx.get(f"{other}{path}", timeout=60).status_code for path in paths}
        here = {path: server.status(path) for path in ("/healthz", "/readyz", "/metrics")}
        text = httpx.get(f"{other}/metrics", timeout=60).text
        assert server.terminate() == 0
    assert told == {"/healthz": 200, "/readyz": 200, "/metrics": 200, "/chat": 404}
    assert here == {"/healthz": 200, "/readyz": 200, "/metrics": 404}
    assert "kaito_inference_ready 1.0" in text


@pytest.mark.badinput
def test_an_engine_that_is_not_there_ends_the_process() -> None:
    ended = run("--engine=vllm")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith(
        "--engine=vllm: vLLM is not installed here; use auto, native or transformers"
    )


def test_importing_the_server_loads_no_torch_starts_no_thread_and_opens_no_socket() -> None:
    code = (
        "import sys, threading, inference_server.app, inference_server.engines.transformers_engine as e;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules or threading.active_count() != 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """The server's command, which is expected to end by itself."""
    command = [sys.executable, "-m", "inference_server", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
