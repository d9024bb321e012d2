"""The checkpoints of one training: which are whole, where to go on, and whether all is trained already."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

log = logging.getLogger(__name__)

PLACE = "checkpoints"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
STATE = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole one, after ``step`` of ``steps``; ``loss`` is the mean of all steps so far, if they were logged, and
    ``eval_loss`` the last on what is held back."""

    path: Path
    step: int
    steps: int
    loss: float | None
    eval_loss: float | None

    @property
    def is_last(self) -> bool:
        """Whether nothing is left to train. transformers, told to go on from it, would train one step too many."""
        return self.step >= self.steps

    def write_adapter(self, directory: Path) -> None:
        """Copies what was trained, and nothing of the optimizer."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(self.path / name, directory / name)


def of(results: Path, facts: Mapping[str, Any]) -> Path:
    """Where those of a training are: another one of the same volume has other data, and must not be gone on with."""
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return results / PLACE / name


def forget_others(directory: Path) -> None:
    """Removes checkpoints of trainings that were before, so that a volume does not fill up."""
    for other in directory.parent.glob("*"):
        if other != directory:
            log.info("removing the checkpoints of another training: %s", other.name)
            shutil.rmtree(other)


def last(directory: Path) -> Checkpoint | None:
    """The youngest that is whole; one that was being written when the process died is passed over."""
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((whole for path in found if (whole := _read(path))), None)


def losses(history: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """``loss``: the mean over the steps that were logged; ``eval_loss``: the last; None if there is none."""
    each = [float(entry["loss"]) for entry in history if "loss" in entry]
    held_back = [float(entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    return {
        "loss": round(sum(each) / len(each), 6) if each else None,
        "eval_loss": round(held_back[-1], 6) if held_back else None,
    }


def _read(path: Path) -> Checkpoint | None:
    """None unless adapter, optimizer, schedule and state can all be read."""
    try:
        with safe_open(path / WEIGHTS, framework="pt") as weights:
            weights.keys()
        json.loads((path / CONFIG).read_text())
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(path / name, map_location="cpu", weights_only=True)
        state = json.loads((path / STATE).read_text())
        found = Checkpoint(path, state["global_step"], state["max_steps"], **losses(state["log_history"]))
    except (OSError, RuntimeError, SafetensorError, ValueError, KeyError, EOFError):
        return None
    return found if path.name == f"checkpoint-{found.step}" else None
