"""What the steps of a tuning Job and the operator say to each other: exit codes, and the last words of a step.

A step (download, train, publish, fetch) that fails writes one line to /dev/termination-log, ``Reason: message``, and
exits with the code of the reason; the operator turns both into a condition. One that succeeds writes a line of JSON.
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
        ExitCode.DOWNLOAD_REFUSED,
        ExitCode.OUT_OF_MEMORY,
        ExitCode.PUSH_DENIED,
    }
)
"""Another attempt would end the same way: podFailurePolicy fails the Job at once."""
