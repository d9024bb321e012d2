"""Several processes that share a training: one result, one end, and the exit code that a Job needs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from presets.tuning_steps import ExitCode
from tests.support.ports import free_port
from tests.support.tiny_model import write_tiny_model
from tests.support.waiting import eventually
from tests.support.warm_process import ended, started
from tuning_runner import checkpoints, ranks
from tuning_runner.__main__ import main
from tuning_runner.transfer_ending import StepFailed

pytestmark = [
    pytest.mark.tuning,
    pytest.mark.filterwarnings("ignore:`?is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
]
ROWS = [{"prompt": f"w{i % 20} w{(i + 1) % 20}", "completion": f"w{(i + 2) % 20}"} for i in range(32)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_tiny_model(tmp_path / "model")
    return tmp_path


def command(place: Path, *, results: str, count: int, batch: int, steps: int) -> list[str]:
    arguments = {
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": 0.01,
        "save_steps": 1000,
        "lr_scheduler_type": "constant",
    }
    sections = {"ModelConfig": {"torch_dtype": "float32"}, "LoraConfig": {"r": 2}, "TrainingArguments": arguments}
    (place / f"{results}.yaml").write_text(yaml.safe_dump({"training_config": sections}))
    return [
        f"--pretrained_model_name_or_path={place / 'model'}",
        "--preset=tiny",
        "--method=lora",
        f"--config={place / f'{results}.yaml'}",
        f"--data={place / 'data'}",
        f"--results={place / results}",
        "--port=0",
        f"--processes={count}",
    ]


def start(place: Path, **asked: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "TERMINATION_LOG": str(place / "words"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tuning_runner", *command(place, **asked)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def stopped(place: Path) -> Path:
    """Results of a training of two ranks that got a SIGTERM on its way."""
    with start(place, results="shared", count=2, batch=2, steps=100000) as process:
        assert process.stderr
        eventually(lambda: "step " in (process.stderr.readline() if process.stderr else ""), within=120, what="a step")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == ExitCode.PREEMPTED, said
    return place / "shared"


def test_a_sigterm_stops_all_ranks_at_one_step_with_one_checkpoint(stopped: Path, place: Path) -> None:
    words = (place / "words").read_text()
    assert words.startswith("Preempted: stopped at step ")
    [directory] = (stopped / "checkpoints").iterdir()
    last = checkpoints.last(directory)
    assert last is not None
    assert words == f"Preempted: stopped at step {last.step} of 100000"
    assert sorted(path.name for path in last.path.glob("rng_state*")) == ["rng_state_0.pth", "rng_state_1.pth"]
    assert not (stopped / "results.json").exists()


def rank(argv: list[str], variables: dict[str, str]) -> None:
    """One of several, as the launcher starts it, but forked."""
    os.environ.update(variables)
    torch.set_num_threads(1)
    sys.exit(main(argv))


def test_two_ranks_learn_what_one_learns_from_batches_of_twice_the_size(place: Path) -> None:
    port = free_port()
    argv = command(place, results="two", count=2, batch=2, steps=5)
    group = [started(rank, argv, ranks._variables(each, count=2, port=port, words=place)) for each in range(2)]
    for process in group:
        process.join(180)
    assert [process.exitcode for process in group] == [ExitCode.DONE, ExitCode.DONE]
    assert json.loads((place / "0").read_text())["steps"] == 5
    alone_words = {"TERMINATION_LOG": str(place / "words")}
    assert ended(rank, command(place, results="one", count=1, batch=4, steps=5), alone_words) == ExitCode.DONE
    alone, shared = (load_file(place / each / "adapter/adapter_model.safetensors") for each in ("one", "two"))
    assert alone.keys() == shared.keys()
    moved = max(float(alone[name].abs().max()) for name in alone if "lora_B" in name)
    assert moved > 0.01, "B begins at zero"
    assert max(float((alone[name] - shared[name]).abs().max()) for name in alone) < 0.001


def child(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code])


def test_one_that_fails_ends_the_others_and_gives_its_code() -> None:
    group = [child("import time; time.sleep(600)"), child("raise SystemExit(68)")]
    assert ranks._ended(group) == (1, ExitCode.OUT_OF_MEMORY)
    assert group[0].returncode == -signal.SIGKILL


AFTER = """
import os, time
while True:
    try:
        os.kill({pid}, 0)
    except ProcessLookupError:
        raise SystemExit(75)
    time.sleep(0.01)
"""
"""Ends when another has ended and been seen to."""


def test_one_that_was_preempted_waits_for_those_that_write_still() -> None:
    first = child("raise SystemExit(75)")
    group = [child(AFTER.format(pid=first.pid)), first]
    assert ranks._ended(group) == (1, ExitCode.PREEMPTED)
    assert group[0].returncode == ExitCode.PREEMPTED


def test_words_and_code_of_the_rank_that_failed_are_those_of_the_step() -> None:
    with pytest.raises(StepFailed, match=r"^lower it$") as failed:
        ranks._answer("OutOfMemory: lower it", ended=1, code=68)
    assert failed.value.code is ExitCode.OUT_OF_MEMORY
    with pytest.raises(StepFailed, match=r"^process 1 of the training ended with -9; its log says more$") as failed:
        ranks._answer("", ended=1, code=-9)
    assert failed.value.code is ExitCode.CRASHED
