"""Fixtures that tests of several packages share."""

import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from kaito_operator.kube.client import Kube
from tests.support import control_plane
from tests.support.control_plane import ApiServer

pytest_plugins = ["tests.support.golden", "tests.support.cases", "tests.support.failures", "tests.support.grouping"]

ROOT = Path(__file__).parent.parent
_numbers = itertools.count(1)

settings.register_profile("always", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("new", settings.get_profile("always"), derandomize=False)
settings.load_profile("always")
"""The same examples on every machine, however busy it is; ``--hypothesis-profile=new`` looks for others."""


@pytest.fixture(autouse=True)
def numbers_are_the_same_in_every_order() -> None:
    """What is random in torch begins anew for each test, as pytest-randomly has it for random and numpy."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


ON_DEMAND = {
    "karpenter": "make karpenter: Karpenter is built from source, which takes minutes the first time",
    "e2e": "make e2e: it takes root, both images, 20 GB and a quarter of an hour",
    "crash": "make crash: two lives for every write of the longer scenarios take minutes; create and delete run always",
    "vllm": "make vllm: vLLM and a torch of its own are 6 GB, and each of its starts takes half a minute",
}
"""Markers whose tests run only where ``-m`` names them, and why."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Says in words why what is not asked for does not run."""
    asked = config.getoption("markexpr") or ""
    for item in items:
        for marker, why in ON_DEMAND.items():
            if item.get_closest_marker(marker) and marker not in asked:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server, one for all tests of a run; each test uses names of its own."""
    with control_plane.api_server(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture
async def kube(api_server: ApiServer) -> AsyncIterator[Kube]:
    """Our client, as the user ``operator``."""
    connected = await Kube.connect(str(api_server.kubeconfig()))
    yield connected
    await connected.close()


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A namespace of the test's own. Nothing removes it: without controllers a namespace never ends."""
    name = f"test-{next(_numbers)}"
    api_server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name


@pytest.fixture
def crds(api_server: ApiServer) -> Iterator[None]:
    """The CRDs of the charts; their objects are gone after the test."""
    definitions = [yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("charts/*/files/crds/*.yaml"))]
    for definition in definitions:
        control_plane.establish(api_server, definition)
    yield
    for definition in definitions:
        control_plane.empty(api_server, definition)
