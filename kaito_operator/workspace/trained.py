"""How far a training has come, by its trainer's own words: while it runs at ``/progress``, afterwards its last."""

from collections.abc import Sequence

from pydantic import BaseModel, Field, ValidationError

from kaito_operator.workspace.seen_pods import Pod, Progress
from kaito_operator.workspace.tuning import TRAINER


class Far(BaseModel, frozen=True):
    """What both say, as far as it is shown."""

    loss: float | None = None
    epoch: float = Field(default=0, ge=0)
    tokens_per_second: float | None = Field(default=None, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0)


class UnderWay(Far, frozen=True):
    """What the trainer says at ``/progress``."""

    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    eta_seconds: float | None = Field(default=None, ge=0)


class LastWords(Far, frozen=True):
    """What it said when it had reached its last step."""

    steps: int = Field(ge=0)


def under_way(answer: bytes) -> Progress | None:
    """What an answer of ``/progress`` says; None if it makes no sense."""
    try:
        told = UnderWay.model_validate_json(answer)
    except ValidationError:
        return None
    left = round(told.eta_seconds) if told.eta_seconds is not None else None
    return _progress(told, step=told.step, steps=told.total_steps, eta_seconds=left)


def at_the_end(pods: Sequence[Pod]) -> Progress | None:
    """What the trainer of one of these pods did in all; None while it has not ended well.

    A training can be over before anybody has asked it once, and its last step is nearly always after the last question.
    """
    said = (
        container.ended.message
        for pod in sorted(pods, key=lambda pod: pod.created_at, reverse=True)
        for container in pod.containers
        if container.name == TRAINER and container.ended is not None and container.ended.exit_code == 0
    )
    return next((found for found in map(_ended, said) if found is not None), None)


def _ended(message: str) -> Progress | None:
    try:
        told = LastWords.model_validate_json(message)
    except ValidationError:  # an image of before, or words that were cut
        return None
    return _progress(told, step=told.steps, steps=told.steps, eta_seconds=None)


def _progress(told: Far, *, step: int, steps: int, eta_seconds: int | None) -> Progress:
    return Progress(
        step=step,
        steps=steps,
        loss=f"{told.loss:.4g}" if told.loss is not None else "",
        eta_seconds=eta_seconds,
        epoch=f"{told.epoch:.2f}" if told.epoch else "",
        tokens_per_second=round(told.tokens_per_second) if told.tokens_per_second is not None else None,
        peak_memory=f"{told.peak_memory_bytes >> 20}Mi" if told.peak_memory_bytes else "",
    )
