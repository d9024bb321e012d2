"""How far a training is, as the trainer itself tells it."""

from collections.abc import Iterator

from pydantic import BaseModel, Field, ValidationError

from kaito_operator.api import labels
from kaito_operator.api.kinds import POD
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.pod_board import EVERY_SECONDS, PodAtWork, PodBoard
from kaito_operator.workspace import seen
from kaito_operator.workspace.seen import Progress
from kaito_operator.workspace.services import HTTP_PORT
from kaito_operator.workspace.tuning import COMPONENT, TRAINER


class Told(BaseModel, frozen=True):
    """What the trainer says at ``/progress``, as far as it is shown."""

    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    loss: float | None = None
    eta_seconds: float | None = Field(default=None, ge=0)
    epoch: float = Field(default=0, ge=0)
    tokens_per_second: float | None = Field(default=None, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0)


def progress_board(*, port: int = HTTP_PORT, every_seconds: float = EVERY_SECONDS) -> PodBoard[Progress]:
    """The last progress of each pod whose trainer runs."""
    return PodBoard(path="/progress", at_work=_training, read=_progress, port=port, every_seconds=every_seconds)


def _training(mirror: Mirror) -> Iterator[PodAtWork]:
    for manifest in mirror.all(POD):
        pod = seen.pod(manifest)
        trains = any(each.name == TRAINER and each.runs for each in pod.containers)
        if pod.component == COMPONENT and trains and pod.address:
            key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["labels"][labels.WORKSPACE])
            yield key, pod.name, pod.address


def _progress(answer: bytes) -> Progress | None:
    try:
        told = Told.model_validate_json(answer)
    except ValidationError:
        return None
    return Progress(
        step=told.step,
        steps=told.total_steps,
        loss=f"{told.loss:.4g}" if told.loss is not None else "",
        eta_seconds=round(told.eta_seconds) if told.eta_seconds is not None else None,
        epoch=f"{told.epoch:.2f}" if told.epoch else "",
        tokens_per_second=round(told.tokens_per_second) if told.tokens_per_second is not None else None,
        peak_memory=f"{told.peak_memory_bytes >> 20}Mi" if told.peak_memory_bytes else "",
    )
