"""Which tests share a process of pytest-xdist: those of a file, and all that need the local cluster."""

from collections.abc import Generator

import pytest

SYSTEM = "system"


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Fixtures of a module are made once, and so is the local cluster; its tests, which take longest, begin first.

    The marks have to be there before xdist looks for them, and the order has to come after pytest-randomly's.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    yield
    items.sort(key=lambda item: _group(item) != SYSTEM)


def _group(item: pytest.Item) -> str:
    return SYSTEM if item.get_closest_marker("system") else item.nodeid.partition("::")[0]
