"""``python -m tuning_runner``: trains an adapter for a preset and tells how far it is."""

import argparse
import hashlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from presets import openmp
from presets.model_directory import model_directory
from presets.training_config import TrainingConfigError, default_text, parse
from presets.tuning_steps import ExitCode
from tuning_runner import ranks
from tuning_runner.transfer_ending import StepFailed, run_step

METHODS = ("lora", "qlora")
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The step: 0, or the exit code that says why not."""
    openmp.wait_briefly()
    given = sys.argv[1:] if argv is None else argv
    return run_step(lambda: _step(given), failed=ExitCode.CRASHED)


def _step(argv: Sequence[str]) -> Mapping[str, object]:
    asked = _arguments(argv)
    if asked.processes > 1 and ranks.rank() is None:
        return ranks.run(argv, count=asked.processes)
    text = _config(asked.config, method=asked.method)
    try:
        config = parse(text, method=asked.method)
    except TrainingConfigError as error:
        raise StepFailed(ExitCode.CONFIG_INVALID, str(error)) from None
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # a log is no terminal
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from tuning_runner.preparation import Request
    from tuning_runner.progress import Progress, served  # here, for torch takes seconds to load
    from tuning_runner.train import train

    progress = Progress()
    request = Request(
        model=Path(model_directory(str(asked.pretrained_model_name_or_path))),
        preset=asked.preset,
        method=asked.method,
        config=config,
        config_digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
        data=asked.data,
        results=asked.results,
    )
    if ranks.rank():  # the first tells it for all
        logging.getLogger().setLevel(logging.WARNING)
        return train(request, progress)
    with served(progress, port=asked.port):
        return train(request, progress)


class _Parser(argparse.ArgumentParser):
    """One whose complaints are last words, too. ``exit_on_error`` of Python 3.11 leaves out missing arguments."""

    def error(self, message: str) -> NoReturn:
        """What argparse calls when something is wrong. Raises StepFailed."""
        raise StepFailed(ExitCode.CONFIG_INVALID, message)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="tuning_runner", description=__doc__)
    parser.add_argument("--pretrained_model_name_or_path", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--preset", required=True, help="name of the base model, as the adapter's card says it")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--config", type=Path, help="training_config.yaml; by default the method's own")
    parser.add_argument("--data", type=Path, required=True, help="directory of the training data")
    parser.add_argument("--results", type=Path, required=True, help="where checkpoints and the adapter go")
    parser.add_argument("--port", type=int, default=5000, help="of /progress, /metrics and /healthz")
    parser.add_argument("--processes", type=int, default=1, help="one a GPU, to share each step's examples")
    return parser.parse_args(argv)


def _config(path: Path | None, *, method: str) -> str:
    if path is None:
        return default_text(method)
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StepFailed(ExitCode.CONFIG_INVALID, f"{path} cannot be read: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
