"""TensorBoard's files beside the results: the curves of a training, for whoever has the volume."""

from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from transformers.integrations import TensorBoardCallback

DIRECTORY = "tensorboard"


def board(results: Path, *, name: str, first_step: int) -> Any:
    """A callback that writes the curves of one training, by its name; those of steps that are trained again go."""
    return TensorBoardCallback(SummaryWriter(str(results / DIRECTORY / name), purge_step=first_step))
