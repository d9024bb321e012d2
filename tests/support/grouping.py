"""Which tests share a process of pytest-xdist: those of a file, and all that need the one local cluster."""

import pytest
from xdist.scheduler import LoadScopeScheduling

SYSTEM = "tests/system/"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first. After pytest-randomly, which puts all in another order each time."""
    items.sort(key=lambda item: not item.nodeid.startswith(SYSTEM))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "ByFile":
    """The scheduler of --dist=loadscope, told what a scope is."""
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Fixtures of a module are made once, and so is the local cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return SYSTEM if nodeid.startswith(SYSTEM) else nodeid.partition("::")[0]
