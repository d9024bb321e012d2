"""What the steps of a tuning Job and the operator say to each other: exit codes, and the last words of a step.

A step (model, download, train, publish, fetch) that fails writes one line to /dev/termination-log, or as the last of
its log, ``Reason: message``, and exits with the code of the reason; the operator turns both into a condition. One of a
Job that succeeds writes a line of JSON.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Why a step ended. 64 to 78 follow sysexits.h where it has a fitting one; 128 and above are signals."""

    DONE = 0
    CRASHED = 1
    """An error of ours: a traceback is in the log. Tried again."""
    CONFIG_INVALID = 64
    """The training configuration or the arguments. Never tried again: the same Job would fail the same way."""
    DATA_INVALID = 65
    """Rows or files that cannot be trained on. Never tried again."""
    DOWNLOAD_FAILED = 66
    """Input that did not arrive, after the step's own retries. Tried again."""
    DOWNLOAD_REFUSED = 67
    """An address or a size that is not allowed, or an answer like 403 or 404. Never tried again."""
    OUT_OF_MEMORY = 68
    """The model, its adapter and a batch do not fit. Never tried again."""
    PUSH_FAILED = 69
    """The registry did not take it after the step's own retries. Tried again."""
    HUB_GATED = 70
    """The Hub gives the model only to those who have agreed to its terms. Never tried again by itself."""
    HUB_MODEL_MISSING = 72
    """The Hub has no such model, or hides it. Never tried again."""
    DISK_FULL = 73
    """There is no room for what it writes. Never tried again: the disk would be as full."""
    HUB_UNREACHABLE = 74
    """The Hub did not answer, after the step's own retries. Tried again."""
    HUB_MODEL_UNSUPPORTED = 76
    """The Hub has it in a form that is not loaded, such as pickles. Never tried again."""
    PREEMPTED = 75
    """Told to stop before the last step; what was reached is in a checkpoint. Always tried again."""
    PUSH_DENIED = 77
    """401, 403 or 404 of the registry. Never tried again by itself."""

    @property
    def reason(self) -> str:
        """The reason as conditions write it: ``DATA_INVALID`` is ``DataInvalid``."""
        return "".join(word.capitalize() for word in self.name.split("_"))


FINAL = frozenset(
    {
        ExitCode.CONFIG_INVALID,
        ExitCode.DATA_INVALID,
        ExitCode.DISK_FULL,
        ExitCode.DOWNLOAD_REFUSED,
        ExitCode.HUB_GATED,
        ExitCode.HUB_MODEL_MISSING,
        ExitCode.HUB_MODEL_UNSUPPORTED,
        ExitCode.OUT_OF_MEMORY,
        ExitCode.PUSH_DENIED,
    }
)
"""Another attempt would end the same way: podFailurePolicy fails the Job at once."""
