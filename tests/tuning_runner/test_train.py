"""Training for real, on a tiny model: what it writes, how it goes on, how it fails."""

import json
import os
import re
import select
import shutil
import signal
import sys
import termios
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboardX.proto import event_pb2
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

from kaito_operator.workspace import seen_pods
from kaito_operator.workspace.trained import at_the_end
from presets.training_config import default_text
from presets.tuning_steps import ExitCode
from tests.support.builders import a_tuning_pod
from tests.support.ports import free_port
from tests.support.small_disk import mount_small_disk
from tests.support.tiny_model import write_tiny_model
from tests.support.told import condition_after
from tests.support.waiting import eventually
from tests.support.warm_process import ended, run_tuning, started
from tuning_runner import checkpoints
from tuning_runner.__main__ import main

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
    (tmp_path / "model").symlink_to(model)
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "words"))
    return tmp_path


def config(
    place: Path,
    *,
    quantised: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    rows: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> None:
    sections: dict[str, Any] = {
        "ModelConfig": {"torch_dtype": "float32"},
        "LoraConfig": {"r": 2, **(lora or {})},
        "TrainingArguments": {**ARGUMENTS, **arguments},
        "DatasetConfig": rows or {},
        "QuantizationConfig": quantised or {},
    }
    (place / "config.yaml").write_text(yaml.safe_dump({"training_config": sections}))


def command(place: Path, model: Path, *, method: str = "lora", results: str = "results", port: int = 0) -> list[str]:
    return [
        f"--pretrained_model_name_or_path={model}",
        "--preset=tiny",
        f"--method={method}",
        f"--config={place / 'config.yaml'}",
        f"--data={place / 'data'}",
        f"--results={place / results}",
        f"--port={port}",
    ]


def words(place: Path) -> str:
    return (place / "words").read_text()


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "qlora of 8 bit": {"load_in_8bit": True},
}


@pytest.mark.parametrize("case", METHODS)
def test_it_trains_to_the_last_step_and_marks_what_it_made(place: Path, model: Path, case: str) -> None:
    method = case.split()[0]
    config(place, quantised=METHODS[case])
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
    first = {"steps": 6, "loss": json.loads((place / "results/results.json").read_text())["loss"], "eval_loss": None}
    assert json.loads(words(place)) == {"trained": False, **first}
    (place / "results/adapter/adapter_config.json").write_text("{}")
    assert main(command(place, model)) == ExitCode.DONE
    assert json.loads(words(place))["trained"] is True


def test_the_last_words_say_how_far_it_came_in_all(place: Path, model: Path) -> None:
    """They are what the status says of a training that was over before anybody had asked."""
    config(place)
    assert main(command(place, model)) == ExitCode.DONE
    last = json.loads(words(place))
    assert (last["steps"], last["epoch"]) == (6, 0.5), "six steps of two rows, of 24"
    assert last["tokens_per_second"] > 0
    assert last["peak_memory_bytes"] > 100 << 20
    told = at_the_end([seen_pods.pod(a_tuning_pod("job", ended=("trainer", 0, words(place))))])
    assert told is not None
    assert (told.step, told.steps, told.loss) == (6, 6, f"{last['loss']:.4g}")


def test_the_commit_of_a_model_from_the_hub_is_noted(place: Path, model: Path) -> None:
    """As ``hf_hub_download(local_dir=…)`` notes it: commit, etag, time."""
    hub = shutil.copytree(model, place / "hub")
    noted = hub / ".cache/huggingface/download/config.json.metadata"
    noted.parent.mkdir(parents=True)
    noted.write_text(f"{'ab' * 20}\n{'cd' * 20}\n1795730000.5\n")
    config(place, max_steps=1)
    assert main(command(place, hub)) == ExitCode.DONE
    assert json.loads((place / "results/results.json").read_text())["revision"] == "ab" * 20


def test_other_data_is_trained_anew(place: Path, model: Path) -> None:
    config(place)
    assert main(command(place, model)) == ExitCode.DONE
    [before] = (place / "results/checkpoints").iterdir()
    with (place / "data/rows.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    assert main(command(place, model)) == ExitCode.DONE
    answer = json.loads(words(place))
    assert (answer["trained"], answer["steps"]) == (True, 6)
    [after] = (place / "results/checkpoints").iterdir()
    assert after != before, "nothing of the other training was gone on with"


def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on_to_the_same_adapter(place: Path) -> None:
    config(place, max_steps=120, save_steps=1000)
    port = free_port()
    process = started(run_tuning, str(place), port)
    eventually(lambda: _progress(port).get("step", 0) >= 3, within=120, what="step 3")
    process.terminate()
    process.join(180)
    assert process.exitcode == ExitCode.PREEMPTED
    assert words(place).startswith("Preempted: stopped at step ")
    assert not (place / "results/results.json").exists()
    assert ended(run_tuning, str(place)) == ExitCode.DONE
    stopped = load_file(place / "results/adapter/adapter_model.safetensors")
    shutil.rmtree(place / "results")
    assert ended(run_tuning, str(place)) == ExitCode.DONE
    ours, theirs = stopped, load_file(place / "results/adapter/adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-6


def _progress(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return {}


class Asks(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """To stop, as soon as the trainer has been made."""

    def on_init_end(self, *_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)


class Exhausts(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """A step that takes more memory than there is."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        torch.empty(1 << 60)


def run_with(callback: type[TrainerCallback], place: str) -> None:
    DEFAULT_CALLBACKS.append(callback)
    run_tuning(place)


def test_asked_to_stop_while_it_loads_it_stops_at_once(place: Path) -> None:
    config(place)
    assert ended(run_with, Asks, str(place)) == ExitCode.PREEMPTED
    assert words(place) == "Preempted: told to stop before it was done"


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_two_configurations_of_kaito_work_as_they_are(place: Path, model: Path, method: str) -> None:
    (place / "config.yaml").write_text(default_text(method))
    (place / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    assert main(command(place, model, method=method)) == ExitCode.DONE
    assert json.loads(words(place))["steps"] == 9, "three epochs of three rows, one at a time"


def test_what_is_held_back_is_evaluated_and_not_trained_on(place: Path, model: Path) -> None:
    config(place, rows={"train_test_split": 0.75}, max_steps=-1, num_train_epochs=2)
    assert main(command(place, model)) == ExitCode.DONE
    told = json.loads(words(place))
    assert told["steps"] == 18, "two epochs of 18 of the 24 rows, two at a time"
    held_back = curves(place / "results")["eval/loss"]
    assert len(held_back) == 2, "after each epoch"
    assert told["eval_loss"] == pytest.approx(held_back[-1], abs=1e-4)


def test_the_curves_are_written_for_tensorboard(place: Path, model: Path) -> None:
    config(place)
    assert main(command(place, model)) == ExitCode.DONE
    losses = curves(place / "results")["train/loss"]
    assert len(losses) == 6
    assert sum(losses) / 6 == pytest.approx(json.loads(words(place))["loss"], abs=1e-4)


def curves(results: Path) -> dict[str, list[float]]:
    """What TensorBoard would show, by name."""
    [file] = (results / "tensorboard").rglob("events.out.tfevents.*")
    found: dict[str, list[float]] = {}
    for event in events(file):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
    return found


def events(file: Path) -> Iterator[Any]:
    """TensorBoard's records: length, its checksum, the event, its checksum."""
    data = file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def trained_at_a_terminal(place: str, terminal: str) -> None:
    sys.stderr = os.fdopen(os.open(terminal, os.O_WRONLY), "w")
    run_tuning(place)


def test_on_a_terminal_it_shows_a_bar_and_no_lines_of_steps(place: Path) -> None:
    config(place)
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (24, 100))
    process = started(trained_at_a_terminal, str(place), os.ttyname(its))
    screen = b""
    while process.is_alive() or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            screen += os.read(ours, 4096)
    assert process.exitcode == ExitCode.DONE
    assert re.search(r"100%\|█+\| 6/6 \[.*loss \d", screen.decode())
    assert b"step 6 of 6" not in screen


def test_recomputing_activations_changes_no_loss(place: Path, model: Path) -> None:
    config(place)
    assert main(command(place, model)) == ExitCode.DONE
    loss = json.loads(words(place))["loss"]
    config(place, gradient_checkpointing=True)
    assert main(command(place, model)) == ExitCode.DONE
    again = json.loads(words(place))
    assert (again["trained"], again["steps"], again["loss"], again["eval_loss"]) == (True, 6, loss, None)


def test_memory_that_does_not_suffice_is_told_with_what_to_lower(place: Path, model: Path) -> None:
    config(place, lora={"r": 1 << 40})
    assert main(command(place, model)) == ExitCode.OUT_OF_MEMORY
    assert "LoraConfig.r smaller" in words(place)


def test_a_batch_that_is_too_large_is_told_with_what_to_lower(place: Path) -> None:
    config(place)
    assert ended(run_with, Exhausts, str(place)) == ExitCode.OUT_OF_MEMORY
    assert words(place) == (
        "OutOfMemory: lower TrainingArguments.per_device_train_batch_size, which is 2; or set"
        " TrainingArguments.gradient_checkpointing: true; or lower TrainingArguments.max_length, which is 64; or take"
        " method qlora or a larger instanceType"
    )


FULL = Path("/dev/full")
WRITTEN = (
    "checkpoints/*/checkpoint-4/optimizer.pt",
    "checkpoints/*/checkpoint-4/scheduler.pt",
    "checkpoints/*/checkpoint-4/trainer_state.json",
    "adapter/adapter_config.json",
    ".results.json",
)


@pytest.mark.faults
@pytest.mark.badinput
@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full, which is a full disk")
@pytest.mark.parametrize("file", WRITTEN)
def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(
    place: Path, model: Path, trained: Path, file: str, count_cases: Callable[[str, int], None]
) -> None:
    results = place / "results"
    config(place, max_steps=4)
    shutil.copytree(trained, results / "checkpoints" / trained.name)
    shutil.rmtree(results / "checkpoints" / trained.name / "checkpoint-4")
    path = results / file.replace("*", trained.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(FULL)
    assert main(command(place, model)) == ExitCode.DISK_FULL, words(place)
    assert words(place).startswith("DiskFull: the disk is full")
    assert condition_after("trainer", ExitCode.DISK_FULL, words(place))[1] == "DiskFull"
    assert not (results / "results.json").exists()
    path.unlink()
    assert main(command(place, model)) == ExitCode.DONE
    count_cases("bad input of a tuning, as the status tells it", 1)


def trained_on_a_small_disk(place: str, size: int) -> None:
    mount_small_disk(Path(place) / "results", size=size)
    run_tuning(place)


@pytest.mark.faults
@pytest.mark.badinput
@pytest.mark.parametrize("size", [100_000, 700_000])
def test_a_disk_too_small_for_a_checkpoint_is_told(
    place: Path, size: int, count_cases: Callable[[str, int], None]
) -> None:
    """Of an adapter of half a megabyte and an optimizer twice as large."""
    config(place, lora={"r": 256})
    assert ended(trained_on_a_small_disk, str(place), size) == ExitCode.DISK_FULL
    assert words(place).startswith("DiskFull: the disk is full")
    assert condition_after("trainer", ExitCode.DISK_FULL, words(place))[1] == "DiskFull"
    count_cases("bad input of a tuning, as the status tells it", 1)


CHECKPOINT = ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a training of four steps."""
    place = tmp_path_factory.mktemp("trained")
    (place / "data").mkdir()
    (place / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config(place, max_steps=4)
    assert main(command(place, model)) == ExitCode.DONE
    [directory] = (place / "results/checkpoints").iterdir()
    return directory


@pytest.mark.parametrize("file", CHECKPOINT)
@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(trained: Path, tmp_path: Path, file: str, harm: str) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    whole = checkpoints.last(tmp_path / "copy")
    assert whole is not None
    assert (whole.step, whole.is_last) == (4, True)
    hurt = whole.path / file
    if harm == "missing":
        hurt.unlink()
    else:
        hurt.write_bytes(hurt.read_bytes()[: hurt.stat().st_size // 2])
    before = checkpoints.last(tmp_path / "copy")
    assert before is not None
    assert (before.step, before.is_last) == (2, False)


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
def test_a_mistaken_key_or_value_is_named(
    place: Path, model: Path, case: str, count_cases: Callable[[str, int], None]
) -> None:
    changes, told = MISTAKES[case]
    config(place, **changes)
    assert main(command(place, model)) == ExitCode.CONFIG_INVALID
    assert words(place).startswith("ConfigInvalid: ")
    assert told in words(place)
    assert condition_after("trainer", ExitCode.CONFIG_INVALID, words(place))[1] == "ConfigInvalid"
    count_cases("bad input of a tuning, as the status tells it", 1)


@pytest.mark.badinput
def test_no_variable_of_the_environment_is_an_argument(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("preset", "method", "data", "results", "pretrained_model_name_or_path"):
        monkeypatch.setenv(name, str(place))
        monkeypatch.setenv(name.upper(), str(place))
    assert main([]) == ExitCode.CONFIG_INVALID
    assert "--pretrained_model_name_or_path, --preset, --method, --data, --results" in words(place)


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
