"""Containers in place of processes, as far as that shows without root; ``make e2e`` runs them."""

import tomllib
from pathlib import Path

import pytest

from local_cluster import built_images, cgroups, charts, cluster, containerd, kubelet
from local_cluster.errors import LocalClusterError
from local_cluster.kubelet import Node
from local_cluster.state import ClusterDirectory, ContainerRuntime, Record

NODE = Node("node-1", 3, Path("/run/kaito/nodes/node-1"), cgroup="/kaito-local/node-1")


def test_a_table_written_as_toml_is_read_as_the_same() -> None:
    table = {
        "version": 2,
        "root": '/a "quoted" path',
        "plugins": {
            "io.containerd.grpc.v1.cri": {"restrict": True, "registry": {"configs": {"10.0.0.1:5000": {"n": 1}}}}
        },
    }
    assert tomllib.loads(containerd.toml(table)) == table


def test_a_pods_address_comes_from_the_range_of_its_node() -> None:
    assert containerd.network(NODE, state=Path("/run/containerd-3")) == {
        "cniVersion": "0.4.0",
        "name": "local",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.244.3.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/containerd-3/addresses",
                },
            }
        ],
    }


@pytest.mark.badinput
def test_what_is_missing_is_named_with_the_packages_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(containerd, "PLUGIN_PLACES", (str(tmp_path),))
    lacking = (
        r"^containers need containerd, containerd-shim-runc-v2, runc, the CNI plugin ptp \(Debian: apt-get install "
    )
    with pytest.raises(LocalClusterError, match=lacking):
        containerd.check()
    for program in containerd.PROGRAMS:
        (tmp_path / program).touch(mode=0o755)
    (tmp_path / "ptp").touch()
    assert containerd.check() == tmp_path


@pytest.mark.badinput
async def test_without_built_images_it_is_said_how_to_build_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalClusterError, match="sudo make images"):
        await built_images.push("10.0.0.1:5000", environment={})
    (tmp_path / "buildah").write_text("#!/bin/sh\necho no such image >&2\nexit 1\n")
    (tmp_path / "buildah").chmod(0o755)
    with pytest.raises(LocalClusterError, match=r"there is no image kaito/operator:0\.1\.0: sudo make images"):
        await built_images.push("10.0.0.1:5000", environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})


def test_the_charts_take_the_images_from_the_registry() -> None:
    values = built_images.values("10.0.0.1:5000")
    assert values.keys() == charts.VALUES.keys()
    assert values["workspace"] == {
        "image": {"repository": "10.0.0.1:5000/kaito/operator", "tag": "0.1.0"},
        "runtimeImage": "10.0.0.1:5000/kaito/kaito-smollm2-135m-instruct:0.1.0",
        "presetRegistryName": "10.0.0.1:5000/kaito",
        "presetVersion": "0.1.0",
    }


def test_a_kubelet_limits_pods_where_there_are_control_groups() -> None:
    assert (kubelet.configuration(NODE)["cgroupRoot"], kubelet.configuration(NODE)["cgroupsPerQOS"]) == (
        NODE.cgroup,
        True,
    )
    plain = Node("node-1", 3, NODE.directory)
    assert (kubelet.configuration(plain)["cgroupRoot"], kubelet.configuration(plain)["cgroupsPerQOS"]) == ("", False)
    places = {"program": Path("/bin/kubelet"), "kubeconfig": Path("/k"), "config": Path("/c")}
    assert kubelet.command(NODE, **places)[3] == "with-all-users"
    assert kubelet.command(plain, **places)[3] == "with-one-user"


@pytest.fixture(params=["one hierarchy", "one for each controller"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int]:
    """What /sys/fs/cgroup looks like, and how many hierarchies that are."""
    if request.param == "one hierarchy":
        (tmp_path / "cgroup.controllers").touch()
        return tmp_path, 1
    for controller in ("memory", "cpu,cpuacct"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "cgroup.procs").touch()
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    return tmp_path, 2


def test_control_groups_are_made_and_removed_in_each_hierarchy(mounted: tuple[Path, int]) -> None:
    place, number = mounted
    before = sorted(place.rglob("*"))
    cgroups.make("/kaito-local/node-1", mounted=place)
    cgroups.make("/kaito-local/node-1", mounted=place)
    assert len(cgroups.hierarchies(place)) == number
    for root in cgroups.hierarchies(place):
        (root / "kaito-local/node-1/kubepods").mkdir()
    cgroups.remove(cgroups.of_cluster("local"), mounted=place)
    cgroups.remove(cgroups.of_cluster("local"), mounted=place)
    assert sorted(place.rglob("*")) == before


def test_a_cluster_weighs_more_than_one_program(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "kaito-local").mkdir()
    (tmp_path / "kaito-local/cpu.weight").write_text("100")
    cgroups.make("/kaito-local/node-1", mounted=tmp_path)
    assert (tmp_path / "kaito-local/cpu.weight").read_text() == "6400"


def test_a_machine_without_control_groups_has_none_to_remove(tmp_path: Path) -> None:
    cgroups.remove("/kaito-local", mounted=tmp_path / "none")


def test_a_record_keeps_what_runs_the_containers(tmp_path: Path) -> None:
    record = Record(pid=1, started=2.0, runtime=ContainerRuntime.CONTAINERD)
    directory = ClusterDirectory(tmp_path)
    directory.write_record(record)
    assert directory.record() == record


@pytest.mark.badinput
def test_a_cluster_of_processes_is_not_taken_for_one_of_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ClusterDirectory(tmp_path).write_record(Record(pid=1, started=2.0))
    with pytest.raises(LocalClusterError, match="runs with processes: kaito local down --name mine, then up"):
        cluster.refuse_another(ClusterDirectory(tmp_path), "mine", bare=True, runtime=ContainerRuntime.CONTAINERD)
