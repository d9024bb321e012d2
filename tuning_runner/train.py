"""One training: model and rows in, adapter and marker out; goes on from its last checkpoint if it was interrupted."""

import json
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, TrainerControl
from trl import SFTTrainer

from presets.training_config import TrainingConfig
from presets.tuning_steps import ExitCode
from tuning_runner import examples, files, hyperparameters, marker
from tuning_runner.examples import Example
from tuning_runner.progress import Progress, Reporter
from tuning_runner.transfer_ending import StepFailed

log = logging.getLogger(__name__)

STATE = "trainer_state.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be trained, with what, and where everything is."""

    model: Path
    preset: str
    method: str
    config: TrainingConfig
    config_digest: str
    data: Path
    results: Path


def train(asked: Request, progress: Progress) -> Mapping[str, object]:
    """Trains, and answers what it made. Raises StepFailed. What was trained already is not trained again."""
    facts = _identity(asked)
    if marker.is_done(asked.results, facts):
        log.info("this was trained already: %s", asked.results / marker.MARKER)
        return {"trained": False}
    learnt = examples.examples(files.read(asked.data), columns=hyperparameters.columns(asked.config))
    log.info("%d examples to learn from", len(learnt))
    trainer = _trainer(asked, learnt, progress)
    with _stops_on_sigterm(trainer) as stopped:
        try:
            done = trainer.train(resume_from_checkpoint=last_checkpoint(asked.results / "checkpoints"))
        except torch.OutOfMemoryError as error:
            told = "lower TrainingArguments.per_device_train_batch_size or max_length, or set gradient_checkpointing"
            raise StepFailed(ExitCode.OUT_OF_MEMORY, told) from error
    state = trainer.state
    if stopped or state.global_step < state.max_steps:
        raise StepFailed(ExitCode.PREEMPTED, f"stopped at step {state.global_step} of {state.max_steps}")
    progress.phase = "saving"
    trainer.model.save_pretrained(asked.results / marker.ADAPTER, safe_serialization=True)
    loss = round(float(done.training_loss), 6)
    if trainer.is_world_process_zero():
        marker.write(asked.results, {**facts, "steps": state.global_step, "loss": loss})
    return {"trained": True, "steps": state.global_step, "loss": loss}


def _identity(asked: Request) -> dict[str, Any]:
    """What makes a training this one and no other."""
    return {
        "base_model": asked.preset,
        "method": asked.method,
        "config": asked.config_digest,
        "model": marker.digest(asked.model / "config.json"),
        "data": marker.digests(files.given(asked.data), below=asked.data),
    }


def _trainer(asked: Request, learnt: Sequence[Example], progress: Progress) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(asked.model, local_files_only=True)
    rows = Dataset.from_list([_row(each, chats=bool(tokenizer.chat_template)) for each in learnt])
    model = AutoModelForCausalLM.from_pretrained(
        asked.model,
        dtype=hyperparameters.dtype(asked.config),
        quantization_config=hyperparameters.quantization(asked.config),
        local_files_only=True,
        use_safetensors=True,
    )
    context = int(getattr(model.config, "max_position_embeddings", hyperparameters.LONGEST_EXAMPLE))
    packs = bool(rows.column_names == ["text"])
    arguments = hyperparameters.arguments(
        asked.config, checkpoints=asked.results / "checkpoints", context=context, packs=packs
    )
    share = hyperparameters.held_back(asked.config)
    split = rows.train_test_split(test_size=share, seed=arguments.seed) if share > 0 else {"train": rows}
    lora = hyperparameters.lora(asked.config, model_type=model.config.model_type)
    try:
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=split["train"],
            eval_dataset=split.get("test"),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Reporter(progress)],
        )
    except ValueError as error:  # what peft and trl check only when they see the model
        raise StepFailed(ExitCode.CONFIG_INVALID, " ".join(str(error).split())) from error
    trainer.remove_callback(PrinterCallback)  # ours tells it in fewer lines
    return trainer


def _row(example: Example, *, chats: bool) -> dict[str, Any]:
    """As trl takes it. A model without a chat template gets a conversation as lines of text."""
    if example.is_text:
        return {"text": example.answer}
    if chats:
        return {"prompt": example.prompt, "completion": example.answer}
    return {"prompt": _lines(example.prompt), "completion": _lines(example.answer)}


def _lines(messages: Any) -> str:
    return "".join(f"{message['content']}\n" for message in messages)


class _Stop(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """After a SIGTERM the step under way is the last, and leaves a checkpoint."""

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(self, _: Any, __: Any, control: TrainerControl, **___: Any) -> TrainerControl:
        """Between two steps nothing is half done."""
        if self.asked:
            control.should_save = control.should_training_stop = True
        return control


class _Stopped:
    """Whether the training was asked to stop; true in a condition once it was."""

    def __init__(self, callback: _Stop) -> None:
        self._callback = callback

    def __bool__(self) -> bool:
        return self._callback.asked


@contextmanager
def _stops_on_sigterm(trainer: Any) -> Iterator[_Stopped]:
    stop = _Stop()
    trainer.add_callback(stop)

    def ask(*_: object) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield _Stopped(stop)
    finally:
        signal.signal(signal.SIGTERM, before)


def last_checkpoint(directory: Path) -> str | None:
    """The youngest checkpoint that is whole; one that was being written when the process died is passed over."""
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    whole = next((path for path in found if _is_whole(path)), None)
    if whole is not None:
        log.info("going on from %s", whole.name)
    return str(whole) if whole is not None else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether the adapter, the optimizer, the schedule and the state can all be read."""
    try:
        with safe_open(checkpoint / WEIGHTS, framework="pt") as weights:
            weights.keys()
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(checkpoint / name, map_location="cpu", weights_only=True)
        step = json.loads((checkpoint / STATE).read_text())["global_step"]
    except (OSError, RuntimeError, SafetensorError, ValueError, KeyError, EOFError):
        return False
    return checkpoint.name == f"checkpoint-{step}"
