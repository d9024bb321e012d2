"""Faults that a test asks Azure's stand-in for: which requests, what instead of the answer, how often."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

RequestClass = Literal["list", "get", "put", "delete", "abort", "operation", "usages", "skus", "any"]
"""What kind of request one is: of agent pools, of the operations on them, and of the figures of a region."""


class NoFault(Exception):
    """What was asked for is no fault; the message says why."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as wrong:
        raise ValueError(f"is no regular expression: {wrong}") from wrong
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class Fault(BaseModel):
    """What happens to requests of a class, method and path, in place of or besides their answer."""

    model_config = ConfigDict(extra="forbid")

    request: RequestClass = Field("any", description="Only requests of this class.")
    method: Pattern = Field(".*", description="A regular expression for the whole method.")
    path: Pattern = Field(".*", description="A regular expression found anywhere in the path.")
    status: Annotated[int, Field(ge=100, le=599)] | None = Field(
        None, description="The status of the answer that is given instead; 500 if the fault does nothing else."
    )
    body: dict[str, Any] = Field(default_factory=dict, description="Its body.")
    headers: dict[str, str] = Field(default_factory=dict, description="Its headers, such as Retry-After.")
    delay: NonNegativeFloat = Field(0.0, description="Seconds before anything else happens.")
    reset: bool = Field(False, description="The connection is cut instead of answered.")
    truncated: bool = Field(False, description="The request is carried out, and its answer breaks off half way.")
    after_commit: bool = Field(
        False, description="The request is carried out first, so that only the answer is late or lost."
    )
    fails: dict[str, Any] | None = Field(
        None, description="The request is answered as ever, and the operation it begins ends in this error."
    )
    times: NonNegativeInt | None = Field(
        None, description="How often it strikes; until it is healed if that is left out."
    )

    def strikes(self, request: RequestClass, method: str, path: str) -> bool:
        """Whether it is for this request."""
        there = self.request in ("any", request) and re.fullmatch(self.method, method) and re.search(self.path, path)
        return bool(there and self.times != 0)

    @property
    def answers(self) -> bool:
        """Whether the answer is another than the service's own."""
        return self.status is not None or not (self.delay or self.reset or self.truncated or self.fails is not None)

    @property
    def told(self) -> str:
        """In a word, for the history."""
        words = {"delay": self.delay, "reset": self.reset, "truncated": self.truncated, "fails": self.fails is not None}
        told = [word for word, so in words.items() if so]
        return " ".join([*told, str(self.status or 500)] if self.answers else told)


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

    def matching(self, request: RequestClass, method: str, path: str) -> Fault | None:
        """The fault for a request, counted."""
        for fault in self.active:
            if fault.strikes(request, method, path):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


def parse_fault(told: object) -> Fault:
    """From JSON. Raises NoFault."""
    try:
        return Fault.model_validate(told)
    except ValidationError as wrong:
        raise NoFault(one_line(wrong)) from wrong


def one_line(wrong: ValidationError) -> str:
    """What is wrong with which field, all of it in one line."""
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the body'}: {each['msg']}" for each in wrong.errors())
