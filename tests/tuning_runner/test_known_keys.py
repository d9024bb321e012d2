"""What the operator checks before it buys is what the trainer's libraries accept; what it tells is on its page."""

import re
from pathlib import Path

import pytest

from presets.training_keys import TABLE
from presets.tuning_steps import FINAL, ExitCode
from scripts.training_keys import text
from tuning_runner.progress import METRICS

pytestmark = pytest.mark.tuning
ROOT = Path(__file__).parent.parent.parent
AGAIN = {ExitCode.DONE: "", ExitCode.PREEMPTED: "always"}


def test_the_keys_are_those_of_the_installed_libraries() -> None:
    assert TABLE.read_text() == text(), "run python -m scripts.training_keys"


def test_every_metric_and_exit_code_is_on_the_page() -> None:
    page = (ROOT / "docs/reference/tuning.md").read_text()
    assert [name for name, told in METRICS.values() if f"| `{name}` | {told} |" not in page] == []
    rows = {code: re.search(rf"^\| {code.value} \| {code.name} \| (\w*)", page, re.MULTILINE) for code in ExitCode}
    again = {code.name: row[1] for code, row in rows.items() if row}
    assert again == {code.name: AGAIN.get(code, "no" if code in FINAL else "yes") for code in ExitCode}
