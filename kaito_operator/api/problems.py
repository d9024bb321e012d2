"""What is wrong with an object, as values: where, and what to write instead."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from kaito_operator.api.reasons import Reason


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. ``field`` is its path; ``says`` what is wrong and what to write."""

    field: str
    says: str
    reason: Reason = Reason.INVALID

    def __str__(self) -> str:
        return f"{self.field}: {self.says}"


def of_validation(error: ValidationError) -> tuple[Problem, ...]:
    """Everything that pydantic found, with paths as the user wrote them."""
    return tuple(Problem(_path(each["loc"]), each["msg"][:1].lower() + each["msg"][1:]) for each in error.errors())


def listed(problems: Iterable[Problem]) -> str:
    """All of them in one message."""
    return "; ".join(map(str, problems))


def _path(parts: Iterable[str | int]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{to_camel(part) if '_' in part else part}"
    return path.removeprefix(".") or "the object"
