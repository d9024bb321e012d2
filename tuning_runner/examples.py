"""From rows of any known shape to what is trained on: a prompt and the answer to learn, or plain text."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from presets.tuning_steps import ExitCode
from tuning_runner.files import Row
from tuning_runner.transfer_ending import StepFailed

log = logging.getLogger(__name__)

BAD_SHARE = 0.01
"""Of the rows that may be bad; they are left out and listed. More is a mistake in the data."""
LISTED = 20
QUOTED = 20
"""Characters of a value that a message shows: a file without a header has text where columns are named."""
ROLES = ("system", "user", "assistant", "tool")
SHAPES = "messages, prompt and completion, instruction and output, or text"
Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn. With ``prompt`` the loss is on ``answer`` alone; without, on all of it."""

    prompt: Messages | str
    answer: Messages | str
    row: int = field(default=0, compare=False)
    """Of the data, counted from 1 over all files: a conversation makes several examples."""

    @property
    def is_text(self) -> bool:
        """Whether it is plain text, learnt whole."""
        return not self.prompt


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that DatasetConfig names, "" where it names none."""

    messages: str = ""
    context: str = ""
    response: str = ""


class BadRow(Exception):
    """What is wrong with a row."""


def examples(rows: Iterable[Row], *, columns: Columns) -> list[Example]:
    """All that can be learnt from the rows. Raises StepFailed if more than one in a hundred is bad, or none is left."""
    found: list[Example] = []
    bad: list[str] = []
    total = 0
    for row in rows:
        total += 1
        try:
            found += [replace(each, row=total) for each in _examples(row, columns)]
        except BadRow as error:
            bad.append(f"{row.place}: {error}")
    _judge(bad, total=total, found=found)
    if len({example.is_text for example in found}) > 1:
        told = "some rows are plain text and some have answers: give data of one shape"
        raise StepFailed(ExitCode.DATA_INVALID, told)
    return found


def _judge(bad: Sequence[str], *, total: int, found: Sequence[Example]) -> None:
    for each in bad[:LISTED]:
        log.warning("left out: %s", each)
    if not total:
        raise StepFailed(ExitCode.DATA_INVALID, "the data files have no rows")
    if len(bad) > total * BAD_SHARE:
        more = f" (and {len(bad) - 1} more of {total} rows)" if len(bad) > 1 else f" (of {total} rows)"
        raise StepFailed(ExitCode.DATA_INVALID, f"{bad[0]}{more}")
    if not found:
        raise StepFailed(ExitCode.DATA_INVALID, "no row has an answer to learn from")


def _examples(row: Row, columns: Columns) -> list[Example]:
    if row.value is None:
        raise BadRow(row.trouble)
    value = row.value
    if columns.messages or "messages" in value or "conversations" in value:
        return _conversation(value.get(columns.messages or ("messages" if "messages" in value else "conversations")))
    if columns.context and columns.response:
        return [_pair(value, columns.context, columns.response)]
    if "prompt" in value:
        return [_pair(value, "prompt", "completion")]
    if "instruction" in value:
        return [_instruction(value)]
    if "text" in value or columns.response:
        return [Example("", _text(value, columns.response or "text"))]
    raise BadRow(f"has the columns {_quoted(value)}; write {SHAPES}")


def _quoted(columns: Iterable[Any]) -> str:
    """The first names, cut."""
    names = [str(name) for name in columns]
    told = ", ".join(name if len(name) <= QUOTED else f"{name[:QUOTED]}…" for name in names[:5])
    return f"{told} and {len(names) - 5} more" if len(names) > 5 else told or "none"


def _pair(value: Mapping[str, Any], prompt: str, answer: str) -> Example:
    if isinstance(value.get(prompt), list):
        asked, told = _messages(value[prompt]), _messages(value.get(answer))
        return Example(asked, told)
    return Example(_user(_text(value, prompt)), _assistant(_text(value, answer)))


def _instruction(value: Mapping[str, Any]) -> Example:
    """As Alpaca has it: an instruction, perhaps an input to work on, and the output."""
    asked = _text(value, "instruction")
    if given := value.get("input"):
        asked = f"{asked}\n\n{given}"
    return Example(_user(asked), _assistant(_text(value, "output")))


def _conversation(value: Any) -> list[Example]:
    """One example for each turn of the assistant, with all before it as the prompt."""
    turns = _messages(value)
    learnt = [
        Example(turns[:index], [turn]) for index, turn in enumerate(turns) if turn["role"] == "assistant" and index
    ]
    if not learnt:
        raise BadRow("has no answer of the assistant to learn from")
    return learnt


def _messages(value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise BadRow("messages is not a list of messages")
    return [_message(each, number=number) for number, each in enumerate(value, start=1)]


def _message(value: Any, *, number: int) -> dict[str, str]:
    """ShareGPT says from and value for what everybody else calls role and content."""
    if not isinstance(value, Mapping):
        raise BadRow(f"message {number} is no object with role and content")
    role = value.get("role", {"human": "user", "gpt": "assistant"}.get(value.get("from", ""), value.get("from")))
    content = value.get("content", value.get("value"))
    if role not in ROLES:
        told = repr(role[:QUOTED]) if isinstance(role, str) else type(role).__name__.removesuffix("Type")
        raise BadRow(f"message {number} has the role {told}; write one of {', '.join(ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise BadRow(f"message {number} has no content")
    return {"role": str(role), "content": content}


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _assistant(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]


def _text(value: Mapping[str, Any], column: str) -> str:
    found = value.get(column)
    if not isinstance(found, str) or not found.strip():
        raise BadRow(f"has no text in the column {column}")
    return found
