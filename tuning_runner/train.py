"""One training: model and rows in, adapter and marker out; goes on from its last checkpoint if it was interrupted."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from presets.tuning_steps import ExitCode
from tuning_runner import checkpoints, examples, files, hyperparameters, marker, ranks, shortage
from tuning_runner.board import board
from tuning_runner.checkpoints import Checkpoint
from tuning_runner.interruption import stops_on_sigterm
from tuning_runner.preparation import Request, prepared
from tuning_runner.progress import Progress, Reporter
from tuning_runner.transfer_ending import StepFailed

log = logging.getLogger(__name__)


def train(asked: Request, progress: Progress) -> Mapping[str, object]:
    """Trains, and answers what it made. Raises StepFailed. What was trained already is not trained again."""
    facts = _identity(asked)
    if marker.is_done(asked.results, facts):
        log.info("this was trained already: %s", asked.results / marker.MARKER)
        return {"trained": False, **marker.made(asked.results)}
    directory = checkpoints.of(asked.results, facts)
    if not ranks.rank():
        checkpoints.forget_others(directory)
    last = checkpoints.last(directory)
    if last and last.is_last:
        log.info("all is trained in %s", last.path.name)
        made: dict[str, Any] = {"steps": last.step, "loss": last.loss, "eval_loss": last.eval_loss}
        if not ranks.rank():
            last.write_adapter(asked.results / marker.ADAPTER)
            marker.write(asked.results, {**facts, **made})
    else:
        made = _trained(asked, progress=progress, directory=directory, last=last, facts=facts)
        made |= progress.in_all()
    return {"trained": True, **made}


def _trained(
    asked: Request, *, progress: Progress, directory: Path, last: Checkpoint | None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Trains to the last step and writes the result: what was made."""
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.rank() or 0)  # quantised weights go where this points
    learnt = examples.examples(files.read(asked.data), columns=hyperparameters.columns(asked.config))
    log.info("%d examples to learn from%s", len(learnt), f", going on from {last.path.name}" if last else "")
    with stops_on_sigterm() as interruption:
        told = [] if ranks.rank() else [board(asked.results, name=directory.name, first_step=last.step if last else 0)]
        trainer = prepared(asked, learnt, [Reporter(progress), interruption, *told], checkpoints=directory)
        with shortage.explained(trainer.args):
            trainer.train(resume_from_checkpoint=str(last.path) if last else None)
            state = trainer.state
            if state.global_step < state.max_steps:
                raise StepFailed(ExitCode.PREEMPTED, f"stopped at step {state.global_step} of {state.max_steps}")
            progress.phase = "saving"
            made = {"steps": state.global_step, **checkpoints.losses(state.log_history)}
            if not ranks.rank():
                trainer.model.save_pretrained(asked.results / marker.ADAPTER, safe_serialization=True)
                marker.write(asked.results, {**facts, **made})
    return made


def _identity(asked: Request) -> dict[str, Any]:
    """What makes a training this one and no other."""
    return {
        "base_model": asked.preset,
        "method": asked.method,
        "config": asked.config_digest,
        "model": marker.digest(asked.model / "config.json"),
        **_revision(asked.model),
        "data": marker.digests(files.given(asked.data), below=asked.data),
    }


def _revision(model: Path) -> dict[str, str]:
    """The commit of a model that came from the Hub, where huggingface_hub notes it; nothing for one that did not."""
    noted = model / ".cache/huggingface/download/config.json.metadata"
    return {"revision": noted.read_text().split("\n", 1)[0]} if noted.is_file() else {}
