"""Suites that enumerate cases say in the terminal summary how many there were."""

from collections.abc import Callable

import pytest

CASES: pytest.StashKey[dict[str, int]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CASES] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, cases in sorted(terminalreporter.config.stash[CASES].items()):
        terminalreporter.write_line(f"{name}: {cases} cases")


@pytest.fixture
def count_cases(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Takes the name of a suite and the number of cases it went through."""

    def count(name: str, cases: int) -> None:
        counted = request.config.stash[CASES]
        counted[name] = counted.get(name, 0) + cases

    return count
