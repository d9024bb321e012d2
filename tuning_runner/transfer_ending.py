"""How a step that moves bytes (download, fetch, publish) ends: its exit code and its last words."""

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from presets.tuning_steps import ExitCode

LAST_WORDS_BYTES = 4096
"""The kubelet keeps no more of a termination message."""
FULL = (errno.ENOSPC, errno.EDQUOT)
log = logging.getLogger(__name__)


class StepFailed(Exception):
    """The step cannot go on; ``code`` says whether another attempt may help, the message what to change."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def run_step(step: Callable[[], Mapping[str, object]], *, failed: ExitCode) -> int:
    """Runs the step, says its last words and returns its exit code.

    ``failed`` is what trouble with files ends with, but for a full disk. A SIGTERM ends the step as preempted.
    """
    quiet_http_logs()
    try:
        with _preempted_by_sigterm():
            said = json.dumps(step())
        code = ExitCode.DONE
    except StepFailed as failure:
        code, said = failure.code, f"{failure.code.reason}: {failure}"
    except OSError as error:
        code = ExitCode.DISK_FULL if error.errno in FULL else failed
        said = f"{code.reason}: {disk_trouble(error)}"
    log.log(logging.INFO if code == ExitCode.DONE else logging.ERROR, "%s", said)
    write_last_words(said)
    return code


@contextmanager
def _preempted_by_sigterm() -> Iterator[None]:
    """As the first process of a container it would not even notice, and keep its node for the whole grace period."""

    def stop(*_: object) -> None:
        raise StepFailed(ExitCode.PREEMPTED, "told to stop before it was done")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def disk_trouble(error: OSError) -> str:
    """What an error of the file system asks for."""
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in FULL:
        return f"the disk is full{place}: make the volume larger, or what is written to it smaller"
    return f"{error.strerror or type(error).__name__}{place}"


def write_last_words(text: str) -> None:
    """One line where the kubelet looks for it; a place that cannot be written to is not worth failing for."""
    line = " ".join(text.split()).encode()[:LAST_WORDS_BYTES].decode(errors="ignore")
    try:
        Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log")).write_text(line)
    except OSError as error:
        log.warning("the last words could not be written: %s", error.strerror)


def quiet_http_logs() -> None:
    """Logs to stderr, without httpx's own lines, which tell whole URLs with their signatures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
