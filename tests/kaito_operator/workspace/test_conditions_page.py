"""The page of conditions says what the code says: no more and no less."""

import re
from pathlib import Path

from kaito_operator.api.reasons import ConditionType, Reason

PAGE = (Path(__file__).parents[3] / "docs/reference/conditions.md").read_text()
TYPES, REASONS = PAGE.split("## Reasons")


def rows(text: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)


def test_every_type_is_explained_once() -> None:
    assert sorted(rows(TYPES)) == sorted(type.value for type in ConditionType)


def test_every_reason_is_explained_once() -> None:
    assert sorted(rows(REASONS)) == sorted(reason.value for reason in Reason)


def test_every_reason_that_is_explained_is_given_somewhere() -> None:
    rooms = Path(__file__).parents[3].joinpath("kaito_operator").rglob("*.py")
    code = "\n".join(room.read_text() for room in rooms if room.name != "reasons.py")
    assert [reason.name for reason in Reason if f"Reason.{reason.name}" not in code] == []
