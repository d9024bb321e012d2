"""Real vLLM, built for processors, behind our server: ``make vllm`` runs it. What each engine does alike is tested in
test_openai.py, test_grammar.py and test_bad_input_beside.py, over vLLM too; here is what is its own."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.inference_server.test_adapters import a_pickle, write_adapter
from tests.inference_server.test_app import metric
from tests.support import vllm
from tests.support.cluster import eventually
from tests.support.serving import ServerProcess, serving
from tests.support.tiny_model import write_tiny_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
PROMPT = "The zanzibar of the town is"
NEW = 24
STRENGTHS = {"one": 0.25, "other": 0.5}
AT_ONCE, MOST = 3, 4
"""Requests that vLLM answers at once, and all that are inside."""


@pytest.fixture(scope="module")
def adapters(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of different ranks, scales and layers, and one that is not to be read."""
    place = tmp_path_factory.mktemp("adapters")
    patterns: dict[str, Any] = {"alpha_pattern": {"v_proj": 3}, "rank_pattern": {"q_proj": 2}}
    write_adapter(smollm2, place / "one", target_modules=["q_proj", "v_proj"], **patterns)
    write_adapter(smollm2, place / "other", seed=2, r=12, lora_alpha=6, target_modules="all-linear", use_rslora=True)
    a_pickle(write_adapter(smollm2, place / "pickled", target_modules=["q_proj"]))
    return place


@pytest.fixture(scope="module")
def server(smollm2: Path, adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    flags = [f"--adapters_dir={adapters}", *(f"--adapter_strength={name}={part}" for name, part in STRENGTHS.items())]
    flags += ["--torch_dtype=float32", "--served_model_name=base", f"--vllm_option=max_num_seqs={AT_ONCE}"]
    flags += [f"--max_waiting={MOST - AT_ONCE}"]
    with serving(smollm2, *vllm.FLAGS, *flags, log=log) as process:
        process.wait_until("/readyz")
        yield process


def held(server: ServerProcess) -> tuple[float, float, float]:
    """Requests inside, sequences at work, blocks in use."""
    told = httpx.get(f"{server.url}/metrics", timeout=60).text
    names = ("requests_inside", "requests_running", "cache_blocks_used")
    inside, running, blocks = (metric(told, f"kaito_inference_{name}") for name in names)
    return inside, running, blocks


def greedy(model: Any, base: Path) -> str:
    """What transformers goes on with."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    asked = tokenizer(PROMPT, return_tensors="pt")
    made = model.eval().generate(**asked, do_sample=False, max_new_tokens=NEW)[0, asked["input_ids"].shape[1] :]
    text: str = tokenizer.decode(made)
    return text


def mixed(base: Path, adapters: Path) -> Any:
    """The base with the weighted changes of each adapter in its weights."""
    merged = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    own = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in own.items()}
    for name, strength in STRENGTHS.items():
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        alone = PeftModel.from_pretrained(fresh, adapters / name).merge_and_unload()
        for key, tensor in alone.state_dict().items():
            weights[key] += strength * (tensor - own[key])
    merged.load_state_dict(weights)
    return merged


def test_base_adapters_and_their_mix_answer_at_once_as_transformers_and_peft_do(
    server: ServerProcess, smollm2: Path, adapters: Path
) -> None:
    def plain() -> Any:
        return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)

    wanted = {
        "base": greedy(plain(), smollm2),
        **{name: greedy(PeftModel.from_pretrained(plain(), adapters / name), smollm2) for name in STRENGTHS},
        "combined_adapter": greedy(mixed(smollm2, adapters), smollm2),
    }

    async def answers() -> dict[str, str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            body = {"prompt": PROMPT, "max_tokens": NEW, "temperature": 0}
            replies = await asyncio.gather(
                *(client.post("/v1/completions", json={**body, "model": name}) for name in wanted)
            )
        return {reply.json()["model"]: reply.json()["choices"][0]["text"] for reply in replies}

    assert asyncio.run(answers()) == wanted
    assert len(set(wanted.values())) == 4
    ready = httpx.get(f"{server.url}/readyz", timeout=60).json()
    assert (ready["model"], list(ready["refused_adapters"])) == ("combined_adapter", ["pickled"])
    body = {"prompt": PROMPT, "return_full_text": False, "generate_kwargs": {"do_sample": False, "max_new_tokens": NEW}}
    told = httpx.post(f"{server.url}/chat", json=body, timeout=120).json()
    assert told == {"Result": wanted["combined_adapter"]}


def chat(server: ServerProcess, **options: Any) -> httpx.Response:
    body = {"prompt": PROMPT, "return_full_text": False, "generate_kwargs": {"max_new_tokens": 8, **options}}
    return httpx.post(f"{server.url}/chat", json=body, timeout=120)


def test_kaitos_parameters_mean_what_they_mean_elsewhere(server: ServerProcess) -> None:
    alone = chat(server, do_sample=False).json()["Result"]
    tokens = httpx.post(f"{server.url}/tokenize", json={"prompt": PROMPT + alone}, timeout=60).json()["tokens"]
    fourth = tokens[len(tokens) - 5]
    cut = chat(server, do_sample=False, eos_token_id=fourth).json()["Result"]
    assert alone.startswith(cut)
    assert len(cut) < len(alone)
    assert chat(server, do_sample=False, eos_token_id=fourth, min_new_tokens=8).json()["Result"] != cut
    several = chat(server, num_return_sequences=3, temperature=2.0, top_k=0)
    assert several.status_code == 200
    assert len(several.json()["Result"]) > len(alone)


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_beams": 2}, "num_beams needs a server with --engine=transformers"),
        ({"max_time": 1}, "max_time needs a server with --engine=transformers"),
        ({"temperature": 3}, "temperature: at most 2 with --engine=vllm"),
        ({"do_sample": False, "num_return_sequences": 2}, "num_return_sequences above 1 needs do_sample"),
    ],
)
def test_what_vllm_cannot_do_is_said(server: ServerProcess, options: dict[str, Any], said: str) -> None:
    reply = chat(server, **options)
    assert reply.status_code == 400
    assert said in reply.json()["detail"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_complete_answer_ends_whatever_else_is_asked_for(server: ServerProcess, stream: bool) -> None:
    schema = {"enum": ["yes", "no"]}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "?"}],
        "max_tokens": 40,
        "temperature": 1,
        "min_tokens": 40,
        "ignore_eos": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }
    if stream:
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json={**body, "stream": True}, timeout=120) as r:
            text = "".join(r.iter_text())
        assert '"finish_reason": "stop"' in text or '"finish_reason":"stop"' in text
    else:
        choice = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) in {('"yes"', "stop"), ('"no"', "stop")}


ENDLESS = {"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True}


def test_who_hangs_up_frees_what_was_held(server: ServerProcess) -> None:
    url = f"{server.url}/v1/completions"
    eventually(lambda: held(server) == (0, 0, 0), within=60, what="nothing is held")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=ENDLESS, timeout=1)
    eventually(lambda: held(server) == (0, 0, 0), within=60, what="nothing is held")
    for lines in (0, 1, 5):
        with httpx.stream("POST", url, json={**ENDLESS, "stream": True, "n": 2}, timeout=120) as reply:
            for _, _ in zip(range(lines), filter(None, reply.iter_lines()), strict=False):
                assert held(server)[2] > 0
        eventually(lambda: held(server) == (0, 0, 0), within=60, what="nothing is held")


def test_more_than_may_wait_are_told_to_come_again(server: ServerProcess) -> None:
    async def statuses() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            body = {"prompt": PROMPT, "max_tokens": 60, "ignore_eos": True}
            replies = await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(4 * MOST)))
        assert {reply.headers.get("Retry-After") is not None for reply in replies if reply.status_code == 429} == {True}
        return [reply.status_code for reply in replies]

    found = asyncio.run(statuses())
    assert set(found) == {200, 429}
    assert found.count(200) >= MOST


def test_nothing_of_a_prompt_or_an_answer_is_in_the_log(server: ServerProcess) -> None:
    answer = chat(server, do_sample=False).json()["Result"].strip()
    log = server.log.read_text()
    assert "zanzibar" not in log
    assert answer not in log
    assert "Traceback" not in log


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model", hidden=vllm.WIDTH, context=2048, tied=False)


STREAM = {"prompt": "w1 w2", "max_tokens": 1900, "ignore_eos": True, "stream": True}


def cores(server: ServerProcess) -> list[psutil.Process]:
    """vLLM's processes: the one that schedules, and those that compute."""
    started = psutil.Process(server.process.pid).children(recursive=True)
    return [each for each in started if "resource_tracker" not in " ".join(each.cmdline())]


def gone(processes: list[psutil.Process]) -> bool:
    """Whether they have ended, whoever is to collect them."""
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def killed_beneath(server: ServerProcess) -> str:
    """What a long stream says when vLLM is killed beneath it."""
    with httpx.stream("POST", f"{server.url}/v1/completions", json=STREAM, timeout=300) as reply:
        assert reply.status_code == 200
        lines = filter(None, reply.iter_lines())
        next(lines)
        schedules = next(each for each in cores(server) if "EngineCore" in each.name() + " ".join(each.cmdline()))
        schedules.kill()
        return "".join(lines)


def test_vllm_is_started_again_when_it_dies_and_the_third_time_ends_the_server(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, *vllm.FLAGS, "--served_model_name=tiny", log=tmp_path / "log") as server:
        eventually(lambda: server.status("/healthz") == 200, within=60, what="the port is open")
        assert httpx.get(f"{server.url}/readyz", timeout=60).json()["status"] == "loading"
        for death in range(3):
            server.wait_until("/readyz")
            assert "the engine failed on this request" in killed_beneath(server)
            if death < 2:
                eventually(lambda: server.status("/readyz") == 503, within=60, what="not ready")
                late = httpx.post(f"{server.url}/v1/completions", json={"prompt": "w1"}, timeout=60)
                assert (late.status_code, "loads the model again" in late.text) == (503, True), late.text
        assert server.process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "it failed three times within ten minutes" in log


def test_sigterm_lets_running_answers_finish_and_leaves_no_process(tiny: Path, tmp_path: Path) -> None:
    body = {"prompt": "w1 w2", "max_tokens": 300, "ignore_eos": True}
    with (
        serving(tiny, *vllm.FLAGS, "--grace_seconds=120", log=tmp_path / "log") as server,
        ThreadPoolExecutor() as pool,
    ):
        server.wait_until("/readyz")
        started = cores(server)
        assert started
        running = pool.submit(httpx.post, f"{server.url}/v1/completions", json=body, timeout=120)
        eventually(lambda: held(server)[0] == 1, within=60, what="the request is inside")
        server.process.send_signal(signal.SIGTERM)
        reply = running.result()
        assert (reply.status_code, reply.json()["usage"]["completion_tokens"]) == (200, 300)
        assert server.process.wait(60) == 0
        eventually(lambda: gone(started), within=60, what="its processes are gone")


def test_sigterm_while_it_loads_ends_it_at_once_and_leaves_no_process(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, *vllm.FLAGS, log=tmp_path / "log") as server:
        eventually(lambda: len(cores(server)) > 0, within=120, what="vLLM's processes have begun")
        started = cores(server)
        assert server.terminate(within=30) == 0
        eventually(lambda: gone(started), within=60, what="its processes are gone")


def test_where_memory_is_short_the_context_is_what_it_holds(smollm2: Path, tmp_path: Path) -> None:
    """46,592 tokens of SmolLM2 are a GiB; the model's directory is made to say that it takes more."""
    place = tmp_path / "model"
    place.mkdir()
    for file in smollm2.iterdir():
        (place / file.name).symlink_to(file)
    (place / "config.json").unlink()
    config = (smollm2 / "config.json").read_text()
    (place / "config.json").write_text(
        config.replace('"max_position_embeddings": 8192', '"max_position_embeddings": 131072')
    )
    with serving(place, *vllm.FLAGS, "--served_model_name=long", log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        [model] = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]
        assert 8192 < model["max_model_len"] < 131072


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--load_in_4bit"], 2, "--engine=vllm does not go with --load_in_4bit and --load_in_8bit"),
        (["--torch_dtype=float64"], 2, "--engine=vllm does not go with --torch_dtype=float64"),
        (["--vllm_option=load_format=auto"], 1, "the server sets this itself"),
        (["--vllm_option=no_such=1"], 1, "this vLLM has no such argument"),
        (["--vllm_option=tensor_parallel_size=x"], 1, "vLLM does not take --vllm_option=tensor_parallel_size: "),
    ],
)
def test_a_flag_that_does_not_go_with_vllm_ends_the_process_with_a_line(
    flags: list[str], code: int, said: str, tiny: Path, tmp_path: Path
) -> None:
    with serving(tiny, "--engine=vllm", *flags, log=tmp_path / "log") as server:
        assert server.process.wait(120) == code
    assert said in (tmp_path / "log").read_text().splitlines()[-1]


@pytest.mark.badinput
@pytest.mark.parametrize("broken", ["no weights", "weights cut short", "pickled weights"])
def test_a_model_that_cannot_be_loaded_is_a_reason(broken: str, tiny: Path, tmp_path: Path) -> None:
    weights = tiny / "model.safetensors"
    if broken == "weights cut short":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    if broken == "pickled weights":
        torch.save({}, tiny / "pytorch_model.bin")
    with serving(tiny, "--engine=vllm", log=tmp_path / "log") as server:
        assert server.process.wait(120) == 1
    said = "SafetensorError" if broken == "weights cut short" else "has no *.safetensors"
    assert said in (tmp_path / "log").read_text().splitlines()[-1]
