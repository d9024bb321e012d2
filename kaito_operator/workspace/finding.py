"""What one gate of a plan finds: passed, in progress, or wrong and why."""

from dataclasses import dataclass

from kaito_operator.api.conditions import Condition, Truth
from kaito_operator.api.reasons import ConditionType, Reason

LONGEST_MESSAGE = 4096
"""The API server takes 32768 characters; what is longer than this nobody reads, and it is somebody else's words."""


@dataclass(frozen=True, slots=True)
class Finding:
    """True: passed. Unknown: in progress, nothing is wrong. False: wrong; the message names object, cause and cure."""

    status: Truth
    reason: Reason
    message: str = ""
    look_again: float | None = None
    """Seconds until it may be seen differently without any event."""

    @property
    def passed(self) -> bool:
        """Whether the gate is open."""
        return self.status == "True"

    def condition(self, type: ConditionType) -> Condition:
        """The finding as a condition of this type."""
        return Condition(type.value, self.status, self.reason.value, cut(self.message, LONGEST_MESSAGE))


def cut(text: str, longest: int) -> str:
    """The text, or its beginning and an ellipsis, in so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def passed(reason: Reason, message: str = "") -> Finding:
    """The gate is open."""
    return Finding("True", reason, message)


def waiting(reason: Reason, message: str, *, look_again: float | None = None) -> Finding:
    """It takes its time."""
    return Finding("Unknown", reason, message, look_again)


def wrong(reason: Reason, message: str, *, cure: str = "", look_again: float | None = None) -> Finding:
    """It does not go on by itself, or only perhaps. ``cure``: what to do."""
    told = f"{message.rstrip('. ')}. What to do: {cure}" if cure else message
    return Finding("False", reason, told, look_again)


def waits_for(type: ConditionType) -> Finding:
    """A gate behind one that is closed."""
    return waiting(Reason.WAITING, f"waits for {type.value}")
