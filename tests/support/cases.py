"""Suites that enumerate cases say in the terminal summary how many there were."""

from collections import Counter
from collections.abc import Callable

import pytest

CASES = "cases"
"""The property by which a count travels with a report, also out of a worker of pytest-xdist."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counted: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for key, value in report.user_properties:
                    if key == CASES:
                        counted[value[0]] += value[1]
    for name, cases in sorted(counted.items()):
        terminalreporter.write_line(f"{name}: {cases} cases")


@pytest.fixture
def count_cases(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Takes the name of a suite and the number of cases it went through."""

    def count(name: str, cases: int) -> None:
        record_property(CASES, [name, cases])

    return count
