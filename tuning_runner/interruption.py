"""A SIGTERM ends a training between two steps, with a checkpoint, on all ranks at the same one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl


class Interruption(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """After a SIGTERM the step under way is the last, and leaves a checkpoint.

    Before the first step there is nothing to keep, and the signal has its former meaning. After the last it has none:
    what was trained is being written.
    """

    def __init__(self) -> None:
        self._asked = self._begun = False
        self._before = signal.getsignal(signal.SIGTERM)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """What a SIGTERM calls."""
        if not self._begun and callable(self._before):
            self._before(number, frame)
        self._asked = True

    def on_train_begin(self, _: Any, __: Any, ___: TrainerControl, **____: Any) -> None:
        """Everything is loaded."""
        self._begun = True

    def on_step_end(self, arguments: Any, _: Any, control: TrainerControl, **__: Any) -> TrainerControl:
        """Between two steps nothing is half done."""
        if _on_any_rank(self._asked, device=arguments.device):
            control.should_save = control.should_training_stop = True
        return control


def _on_any_rank(asked: bool, *, device: torch.device) -> bool:
    """The signal reaches ranks at different steps; one that stopped alone would leave the others waiting for it."""
    if not distributed.is_initialized():
        return asked
    told = torch.tensor(int(asked), device=device)
    distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
    return bool(told)


@contextmanager
def stops_on_sigterm() -> Iterator[Interruption]:
    """While the block runs, the callback that it yields decides what a SIGTERM does."""
    interruption = Interruption()
    before = signal.signal(signal.SIGTERM, interruption.ask)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGTERM, before)
