"""SIGKILL of both controllers at three points of a Workspace's way: still one Machine, one pool, and ready."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.cluster import ARM, LocalCluster, eventually
from tests.system.conftest import clear, pools, ready, workspace_yaml

pytestmark = [pytest.mark.system, pytest.mark.money]

KILL = """
import os, pathlib, signal, sys
for p in pathlib.Path("/proc").iterdir():
    if p.name.isdigit() and int(p.name) != os.getpid():
        try:
            words = (p / "cmdline").read_bytes().split(b"\\0")
        except OSError:
            continue
        if b"kaito_operator" in words and sys.argv[1].encode() in words and b"bwrap" not in words[0]:
            os.kill(int(p.name), signal.SIGKILL)
"""


def kill(cluster: LocalCluster, controller: str) -> None:
    """SIGKILL, so that nothing is said and nothing is tidied up."""
    cluster.run("python3", "-c", KILL, controller)


@pytest.fixture(autouse=True)
def alone(cluster: LocalCluster) -> Iterator[None]:
    """These count all Machines and pools there are."""
    yield
    clear(cluster)


def machine_asked_for(cluster: LocalCluster) -> bool:
    return bool(cluster.items("machines"))


def pool_is_creating(cluster: LocalCluster) -> bool:
    return any(p["properties"]["provisioningState"] == "Creating" for p in pools(cluster))


def node_has_joined(cluster: LocalCluster) -> bool:
    return len(cluster.items("nodes")) > 1


@pytest.mark.parametrize("point", [machine_asked_for, pool_is_creating, node_has_joined], ids=lambda p: p.__name__)
def test_killed_controllers_come_back_to_one_machine_and_one_pool(
    cluster: LocalCluster, point: Callable[[LocalCluster], bool]
) -> None:
    name = f"killed-{point.__name__.replace('_', '-')}"
    cluster.http(f"{ARM}/control/history", method="DELETE")
    cluster.http(f"{ARM}/control/boot", method="PUT", body={"seconds": 4})
    cluster.apply(workspace_yaml(name))
    eventually(lambda: point(cluster), within=300, what=point.__name__)

    kill(cluster, "workspace")
    kill(cluster, "gpu-provisioner")

    eventually(lambda: ready(cluster, name), within=300, what="WorkspaceReady after the kill")
    assert len(cluster.items("machines")) == 1
    assert len(pools(cluster)) == 1
    cluster.kubectl("delete", "workspace", name, "--timeout=180s")
    assert cluster.items("machines") == []
    assert pools(cluster) == []
    puts = [c for c in cluster.http(f"{ARM}/control/history") if c["method"] == "PUT"]
    assert [c["status"] for c in puts] == [201]
