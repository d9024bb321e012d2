"""Golden YAML: what code makes is compared with a file that people read; ``--write-golden`` writes it anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN = Path(__file__).parent.parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write the golden files; the diff is the review")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compares a value with ``tests/golden/<name>.yaml``."""

    def compare(name: str, value: Any) -> None:
        path = GOLDEN / f"{name}.yaml"
        plain = yaml.safe_load(yaml.safe_dump(value))
        if request.config.getoption("--write-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(plain, sort_keys=False, width=120))
        assert path.exists(), f"{path} is missing: make golden writes it"
        assert plain == yaml.safe_load(path.read_text())

    return compare
