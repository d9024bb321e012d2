"""One process a GPU: starts the step once for each rank, and ends as they do."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from presets.tuning_steps import ExitCode
from tuning_runner.transfer_ending import StepFailed

PATIENT = (ExitCode.DONE, ExitCode.PREEMPTED, -signal.SIGTERM)
"""After these the others end too, by themselves: the first rank may be writing still."""


def rank() -> int | None:
    """Of this process, if it is one of several."""
    found = os.environ.get("RANK")
    return int(found) if found else None


def run(argv: Sequence[str], *, count: int) -> Mapping[str, object]:
    """Runs ``python -m tuning_runner`` ``count`` times side by side, and answers what the first rank did.

    Ranks find each other by the variables of torchrun, which accelerate reads. torchrun itself is not taken, for it
    turns every exit code into 1, and a Job tells by them whether another attempt helps.

    Raises StepFailed with code and words of the first that failed.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory() as words:
        ranks: list[subprocess.Popen[bytes]] = []
        before = signal.signal(signal.SIGTERM, lambda *_: _send(ranks, signal.SIGTERM))
        try:
            for each in range(count):
                environment = {**os.environ, **_variables(each, count=count, port=port, words=Path(words))}
                ranks.append(subprocess.Popen([sys.executable, "-m", "tuning_runner", *argv], env=environment))
            ended, code = _ended(ranks)
        finally:
            signal.signal(signal.SIGTERM, before)
        told = Path(words) / str(ended)
        return _answer(told.read_text() if told.exists() else "", ended=ended, code=code)


def _answer(words: str, *, ended: int, code: int) -> Mapping[str, object]:
    if code == ExitCode.DONE:
        answer: Mapping[str, object] = json.loads(words)
        return answer
    if words and code in list(ExitCode):
        raise StepFailed(ExitCode(code), words.removeprefix(f"{ExitCode(code).reason}: "))
    if code == -signal.SIGTERM:
        raise StepFailed(ExitCode.PREEMPTED, "told to stop before it had begun")
    raise StepFailed(ExitCode.CRASHED, f"process {ended} of the training ended with {code}; its log says more")


def _variables(each: int, *, count: int, port: int, words: Path) -> dict[str, str]:
    return {
        "LOCAL_RANK": str(each),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(each),
        "TERMINATION_LOG": str(words / str(each)),
        "WORLD_SIZE": str(count),
    }


def _ended(ranks: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """Rank and exit code of the first that failed, else of rank 0; the others are over too when it returns."""
    failed: tuple[int, int] | None = None
    while running := [each for each in ranks if each.returncode is None]:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        for each in running:
            if (code := each.poll()) and failed is None:
                failed = ranks.index(each), code
        if failed and failed[1] not in PATIENT:
            _send(ranks, signal.SIGKILL)  # they wait for one that is no more
    return failed or (0, ExitCode.DONE)


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for each in ranks:
        each.send_signal(number)  # does nothing to one that is over


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
