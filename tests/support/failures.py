"""A failure is named as soon as it happens, so that a run that is cut short still says which test it was."""

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    if report.failed and reporter is not None:
        why = getattr(report.longrepr, "reprcrash", None)
        reporter.ensure_newline()
        reporter.write_line(f"{report.nodeid}: {why.message.splitlines()[0] if why else report.longreprtext[-200:]}")
    return report
