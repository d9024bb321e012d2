"""How far a training is: for people in the log, for the operator at /progress, for Prometheus at /metrics."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

LOG_SECONDS = 5.0
"""Between two lines, so that a training of days has a log that can be read."""
METRICS = {
    "step": ("tuning_step", "Optimizer steps done."),
    "total_steps": ("tuning_steps", "Optimizer steps in all."),
    "epoch": ("tuning_epoch", "Passes over the data."),
    "loss": ("tuning_loss", "Loss of the last step."),
    "eval_loss": ("tuning_eval_loss", "Loss on what was held back."),
    "tokens_per_second": ("tuning_tokens_per_second", "Tokens trained on a second, padding aside."),
    "eta_seconds": ("tuning_eta_seconds", "Seconds left, at the present speed."),
    "peak_memory_bytes": ("tuning_peak_memory_bytes", "Most memory held: of the GPU, else of the process."),
}


@dataclass(slots=True)
class Progress:
    """What is known now; None while it is not. The trainer writes it, the server reads it."""

    phase: str = "loading"
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    peak_memory_bytes: int = 0

    def in_all(self) -> dict[str, float]:
        """What the last words say beside what was made: nobody asks any more by then."""
        told = {key: getattr(self, key) for key in ("epoch", "tokens_per_second", "peak_memory_bytes")}
        return {key: round(value, 3) for key, value in told.items() if value}

    def as_metrics(self) -> str:
        """Prometheus' text format."""
        lines = []
        for field, value in asdict(self).items():
            if field in METRICS and value is not None:
                name, told = METRICS[field]
                lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge", f"{name} {value}"]
        return "\n".join(lines) + "\n"


class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Keeps a Progress true, and tells it: in the log now and then, on a terminal with a bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._bar = progress, tqdm(disable=True)
        self._started, self._told = time.monotonic(), 0.0
        self._first_step = self._first_tokens = 0

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        """The clock starts; a training that goes on has steps behind it already."""
        self._started, self._first_step = time.monotonic(), state.global_step
        self._first_tokens = state.num_input_tokens_seen
        self._progress.phase, self._progress.total_steps = "training", state.max_steps
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=not sys.stderr.isatty())

    def on_train_end(self, _: TrainingArguments, __: TrainerState, ___: TrainerControl, **____: Any) -> None:
        """The terminal is the log's again."""
        self._bar.close()

    def on_log(
        self, _: TrainingArguments, state: TrainerState, __: TrainerControl, logs: dict[str, Any], **___: Any
    ) -> None:
        """After each step that logs."""
        now, progress = time.monotonic(), self._progress
        done, spent = state.global_step - self._first_step, now - self._started
        progress.step, progress.epoch = state.global_step, float(logs.get("epoch", progress.epoch))
        progress.loss = logs.get("loss", progress.loss)
        progress.eval_loss = logs.get("eval_loss", progress.eval_loss)
        progress.eta_seconds = spent / done * (state.max_steps - state.global_step) if done else None
        if (seen := state.num_input_tokens_seen - self._first_tokens) and spent:
            progress.tokens_per_second = seen / spent
        progress.peak_memory_bytes = _peak_memory()
        self._bar.set_postfix_str(f"loss {progress.loss:.4f}" if progress.loss is not None else "", refresh=False)
        self._bar.update(state.global_step - self._bar.n)
        if not self._bar.disable:
            return
        if now - self._told >= LOG_SECONDS or state.global_step == state.max_steps:
            self._told = now
            log.info("%s", _line(progress))


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) * 1024


def _line(progress: Progress) -> str:
    loss = f", loss {progress.loss:.4f}" if progress.loss is not None else ""
    held_back = f", {progress.eval_loss:.4f} on what is held back" if progress.eval_loss is not None else ""
    speed = f", {progress.tokens_per_second:.0f} tokens/s" if progress.tokens_per_second is not None else ""
    left = f", {progress.eta_seconds:.0f} s left" if progress.eta_seconds is not None else ""
    return f"step {progress.step} of {progress.total_steps}{loss}{held_back}{speed}{left}"


@contextmanager
def served(progress: Progress, *, port: int) -> Iterator[int]:
    """Answers /progress, /metrics and /healthz while the block runs; yields the port. 0 takes a free one."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages: dict[str, tuple[str, Callable[[], str]]] = {
                "/progress": ("application/json", lambda: json.dumps(asdict(progress))),
                "/metrics": ("text/plain; version=0.0.4", progress.as_metrics),
                "/healthz": ("text/plain", lambda: "ok"),
            }
            kind, page = pages.get(self.path.partition("?")[0], ("text/plain", str))
            body = page().encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            log.debug(format, *args)

    server = ThreadingHTTPServer(("", port), Answers)
    thread = threading.Thread(target=server.serve_forever, name="progress", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
