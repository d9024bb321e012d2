"""A failure is named as soon as it happens, so that a run that is cut short still says which test it was."""

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    reporter = plugins.get_plugin("terminalreporter")
    if reporter is not None:  # a worker of pytest-xdist has none; its reports come to the process that has
        plugins.register(Failures(reporter))


class Failures:
    """Tells of each failed report, wherever the test ran."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            why = getattr(report.longrepr, "reprcrash", None)
            self._reporter.ensure_newline()
            self._reporter.write_line(
                f"{report.nodeid}: {why.message.splitlines()[0] if why else report.longreprtext[-200:]}"
            )
