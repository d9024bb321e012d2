"""SIGKILL at each step and at each file of a checkpoint and of the result: the next attempt ends as if nothing was."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState
from transformers.trainer import DEFAULT_CALLBACKS

from presets.tuning_steps import ExitCode
from tests.support.tiny_model import write_tiny_model
from tests.support.warm_process import ended, run_tuning

pytestmark = [
    pytest.mark.tuning,
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:`?is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
]
STEPS = 6
CHECKPOINTS = (2, 4)
FILES = (
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
)
"""Of a checkpoint, as peft, torch and transformers write them."""
RESULTS = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "results.json")
POINTS = [
    *(f"step {step}" for step in range(1, STEPS + 1)),
    *(f"checkpoints/*/checkpoint-{step}/{name}" for step in CHECKPOINTS for name in FILES),
    *RESULTS,
]


def killed_at(place: str, point: str) -> None:
    """Runs the step, in a process of its own, up to the point; to its end with none."""
    if point.startswith("step "):
        DEFAULT_CALLBACKS.append(kill_at(int(point.removeprefix("step "))))
    elif point:
        sys.setprofile(kill_when_written(Path(place) / "results", point))
    run_tuning(place)


def kill_at(step: int) -> type[TrainerCallback]:
    class Kill(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        """Within the step: its gradients are there, the adapter has not moved."""

        def on_pre_optimizer_step(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
            if state.global_step == step - 1:
                os.kill(os.getpid(), signal.SIGKILL)

    return Kill


WRITERS = frozenset({"open", "serialize_file", "write_record", "replace"})
"""Functions that bring a file about: of Python, safetensors and torch."""


def kill_when_written(results: Path, pattern: str) -> Callable[[FrameType, str, Any], None]:
    """As soon as there is such a file: of some there is nothing yet but the name, of some a part."""

    def look(_: FrameType, event: str, function: Any) -> None:
        if event == "c_return" and function.__name__ in WRITERS and any(results.glob(pattern)):
            os.kill(os.getpid(), signal.SIGKILL)

    return look


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def prepare(place: Path, model: Path) -> Path:
    """A training of six steps with a checkpoint after every other."""
    (place / "data").mkdir(parents=True)
    (place / "model").symlink_to(model)
    rows = [{"prompt": f"w{i % 20} w{(i + 1) % 20}", "completion": f"w{(i + 2) % 20}"} for i in range(24)]
    (place / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = {"max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 0.01, "save_steps": 2}
    sections = {"ModelConfig": {"torch_dtype": "float32"}, "LoraConfig": {"r": 2}, "TrainingArguments": arguments}
    (place / "config.yaml").write_text(yaml.safe_dump({"training_config": sections}))
    return place


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = prepare(tmp_path_factory.mktemp("undisturbed"), model)
    assert ended(run_tuning, str(place)) == ExitCode.DONE
    return place / "results"


@pytest.mark.parametrize("point", POINTS)
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    point: str,
    model: Path,
    undisturbed: Path,
    tmp_path: Path,
    count_cases: Callable[[str, int], None],
) -> None:
    place = prepare(tmp_path / "place", model)
    assert ended(killed_at, str(place), point) == -signal.SIGKILL
    assert (place / "results/results.json").exists() == (point == "results.json"), "the marker is the last"
    assert ended(run_tuning, str(place)) == ExitCode.DONE
    assert curve(place / "results") == pytest.approx(curve(undisturbed), abs=1e-6)
    ours, theirs = (json.loads((each / "results.json").read_text()) for each in (place / "results", undisturbed))
    assert ours["steps"] == theirs["steps"] == STEPS
    adapters = [load_file(each / "adapter/adapter_model.safetensors") for each in (place / "results", undisturbed)]
    assert adapters[0].keys() == adapters[1].keys()
    assert max(float((adapters[0][name] - adapters[1][name]).abs().max()) for name in adapters[0]) < 1e-6
    count_cases("kills of a tuning", 1)


def curve(results: Path) -> list[float]:
    """The loss of each step."""
    [state] = results.glob(f"checkpoints/*/checkpoint-{STEPS}/trainer_state.json")
    losses = [float(entry["loss"]) for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    assert len(losses) == STEPS
    return losses
