"""Training for real, on a tiny model: what it writes, how it goes on, how it fails."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from presets.tuning_steps import ExitCode
from tests.support.control_plane import free_ports
from tests.support.tiny_model import write_tiny_model
from tests.support.waiting import eventually
from tuning_runner.__main__ import main
from tuning_runner.train import last_checkpoint

pytestmark = [
    pytest.mark.tuning,
    # peft 0.21 asks transformers 5.23 by a name that goes with version 6, and torch's workers by one that is old
    pytest.mark.filterwarnings("ignore:`?is_gradient_checkpointing:FutureWarning"),
]
ROWS = [{"prompt": f"w{i % 20} w{(i + 1) % 20}", "completion": f"w{(i + 2) % 20}"} for i in range(24)]
ARGUMENTS = {"max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 0.01, "save_steps": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with data, and the last words in ``words``."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "words"))
    return tmp_path


def config(place: Path, *, quantised: bool = False, lora: Mapping[str, Any] | None = None, **arguments: Any) -> Path:
    sections: dict[str, Any] = {
        "ModelConfig": {"torch_dtype": "float32"},
        "LoraConfig": {"r": 2, **(lora or {})},
        "TrainingArguments": {**ARGUMENTS, **arguments},
    }
    if quantised:
        sections["QuantizationConfig"] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    path = place / "training_config.yaml"
    path.write_text(yaml.safe_dump({"training_config": sections}))
    return path


def command(place: Path, model: Path, *, method: str = "lora", results: str = "results", port: int = 0) -> list[str]:
    return [
        f"--pretrained_model_name_or_path={model}",
        "--preset=tiny",
        f"--method={method}",
        f"--config={place / 'training_config.yaml'}",
        f"--data={place / 'data'}",
        f"--results={place / results}",
        f"--port={port}",
    ]


def words(place: Path) -> str:
    return (place / "words").read_text()


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_it_trains_to_the_last_step_and_marks_what_it_made(place: Path, model: Path, method: str) -> None:
    config(place, quantised=method == "qlora")
    assert main(command(place, model, method=method)) == ExitCode.DONE
    marker = json.loads((place / "results/results.json").read_text())
    assert (marker["base_model"], marker["method"], marker["steps"]) == ("tiny", method, 6)
    assert [entry["name"] for entry in marker["data"]] == ["rows.jsonl"]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= marker["files"].keys()
    assert json.loads(words(place))["trained"] is True
    adapter = json.loads((place / "results/adapter/adapter_config.json").read_text())
    assert (adapter["r"], adapter["task_type"]) == (2, "CAUSAL_LM")


def test_what_was_trained_is_not_trained_again_unless_it_was_touched(place: Path, model: Path) -> None:
    config(place)
    assert main(command(place, model)) == ExitCode.DONE
    assert main(command(place, model)) == ExitCode.DONE
    assert json.loads(words(place)) == {"trained": False}
    (place / "results/adapter/adapter_config.json").write_text("{}")
    assert main(command(place, model)) == ExitCode.DONE
    assert json.loads(words(place))["trained"] is True


def test_other_data_is_trained_anew(place: Path, model: Path) -> None:
    config(place)
    assert main(command(place, model)) == ExitCode.DONE
    with (place / "data/rows.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    assert main(command(place, model)) == ExitCode.DONE
    assert json.loads(words(place))["trained"] is True


def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on_to_the_same_adapter(place: Path, model: Path) -> None:
    config(place, max_steps=60, save_steps=1000)
    (port,) = free_ports(1)
    arguments = command(place, model, results="stopped", port=port)
    environment = {**os.environ, "TERMINATION_LOG": str(place / "words")}
    with subprocess.Popen([sys.executable, "-m", "tuning_runner", *arguments], env=environment) as process:
        eventually(lambda: _progress(port).get("step", 0) >= 3, within=120, what="step 3")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == ExitCode.PREEMPTED
    assert words(place).startswith("Preempted: stopped at step ")
    assert not (place / "stopped/results.json").exists()
    assert main(arguments) == ExitCode.DONE
    assert main(command(place, model, results="undisturbed")) == ExitCode.DONE
    ours, theirs = (
        load_file(place / each / "adapter/adapter_model.safetensors") for each in ("stopped", "undisturbed")
    )
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-6


def _progress(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return {}


CHECKPOINT = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


@pytest.mark.parametrize("file", CHECKPOINT)
@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(place: Path, model: Path, file: str, harm: str) -> None:
    config(place, max_steps=4)
    assert main(command(place, model)) == ExitCode.DONE
    checkpoints = place / "results/checkpoints"
    assert last_checkpoint(checkpoints) == str(checkpoints / "checkpoint-4")
    hurt = checkpoints / "checkpoint-4" / file
    if harm == "missing":
        hurt.unlink()
    else:
        hurt.write_bytes(hurt.read_bytes()[: hurt.stat().st_size // 2])
    assert last_checkpoint(checkpoints) == str(checkpoints / "checkpoint-2")


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "LoraConfig key": (
        {"lora": {"lora_alfa": 1}},
        "LoraConfig.lora_alfa: there is no such key; did you mean lora_alpha?",
    ),
    "LoraConfig value": ({"lora": {"r": 0}}, "r"),
    "TrainingArguments key": (
        {"learningrate": 1},
        "TrainingArguments.learningrate: there is no such key; did you mean learning_rate?",
    ),
    "TrainingArguments value": ({"load_best_model_at_end": True}, "TrainingArguments: "),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistaken_key_or_value_is_named(place: Path, model: Path, case: str) -> None:
    changes, told = MISTAKES[case]
    config(place, **changes)
    assert main(command(place, model)) == ExitCode.CONFIG_INVALID
    assert words(place).startswith("ConfigInvalid: ")
    assert told in words(place)


@pytest.mark.badinput
def test_a_missing_argument_is_named(place: Path) -> None:
    assert main(["--method=lora"]) == ExitCode.CONFIG_INVALID
    assert "--preset" in words(place)


@pytest.mark.badinput
def test_bad_data_is_told_before_the_model_is_loaded(place: Path, tmp_path: Path) -> None:
    config(place)
    (place / "data/rows.jsonl").write_text('{"a": 1}\n')
    nowhere = tmp_path / "no-model"
    nowhere.mkdir()
    (nowhere / "config.json").write_text("{}")
    assert main(command(place, nowhere)) == ExitCode.DATA_INVALID
    assert "rows.jsonl row 1" in words(place)
