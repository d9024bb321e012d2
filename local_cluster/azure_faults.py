"""Faults that a test asks Azure's stand-in for: which requests, what instead of the answer, how often."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class NoFault(Exception):
    """What was asked for is no fault; the message says why."""


@dataclass(slots=True)
class Fault:
    """Instead of the answer to requests of this method whose path matches: a status and body, or no answer at all."""

    method: str = ".*"
    """A regular expression for the whole method."""
    path: str = ".*"
    """A regular expression found anywhere in the path."""
    status: int = 500
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before it strikes."""
    reset: bool = False
    """The connection is cut instead of answered."""
    after_commit: bool = False
    """The request is carried out first, so that only the answer is lost."""
    fails: Mapping[str, Any] | None = None
    """The request is answered as ever, and the operation it begins ends in this error: code, message, details."""
    times: int | None = None
    """How often it strikes; None until it is healed."""

    def strikes(self, method: str, path: str) -> bool:
        """Whether it is for this request."""
        return bool(self.times != 0 and re.fullmatch(self.method, method) and re.search(self.path, path))


@dataclass(slots=True)
class Faults:
    """The faults in force; the first that matches strikes."""

    active: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """One more."""
        self.active.append(fault)

    def heal(self) -> None:
        """None any more."""
        self.active.clear()

    def matching(self, method: str, path: str) -> Fault | None:
        """The fault for a request, counted."""
        for fault in self.active:
            if fault.strikes(method, path):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


def parse_fault(told: object) -> Fault:
    """From JSON. Raises NoFault."""
    try:
        fault = Fault(**told)  # type: ignore[arg-type]  # what is no mapping of its fields is a TypeError
        re.compile(fault.method)
        re.compile(fault.path)
    except (TypeError, re.error) as wrong:
        raise NoFault(str(wrong)) from wrong
    return fault
