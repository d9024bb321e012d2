"""How a step that moves bytes (download, fetch, publish) ends: its exit code and its last words."""

import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from presets.tuning_steps import ExitCode

LAST_WORDS_BYTES = 4096
"""The kubelet keeps no more of a termination message."""
log = logging.getLogger(__name__)


class StepFailed(Exception):
    """The step cannot go on; ``code`` says whether another attempt may help, the message what to change."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def run_step(step: Callable[[], Mapping[str, object]], *, full_disk: ExitCode) -> int:
    """Runs the step, says its last words and returns its exit code; ``full_disk`` is what an OSError ends with."""
    quiet_http_logs()
    try:
        said = json.dumps(step())
        code = ExitCode.DONE
    except StepFailed as failure:
        code, said = failure.code, f"{failure.code.reason}: {failure}"
    except OSError as error:
        code, said = full_disk, f"{full_disk.reason}: {disk_trouble(error)}"
    log.log(logging.INFO if code == ExitCode.DONE else logging.ERROR, "%s", said)
    write_last_words(said)
    return code


def disk_trouble(error: OSError) -> str:
    """What an error of the file system asks for."""
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{place}: make the volume larger, or the data smaller"
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
