"""Where programs are found, in which order, and what is said when they are nowhere."""

import os
from pathlib import Path

import pytest

from local_cluster import binaries, go_build
from local_cluster.binaries import PROGRAMS, BinariesMissing


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty directories ``assets``, ``path`` and a cache, and nothing else to be found."""
    for name in ("assets", "path"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    binaries.cache_directory().mkdir(parents=True)
    return tmp_path


def a_program(directory: Path, name: str, *, says: str = "") -> Path:
    """A program that answers every question with ``says``."""
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


def test_the_callers_assets_come_first_whatever_their_version(places: Path) -> None:
    given = a_program(places / "assets", "kubectl", says="Client Version: v1.2.3")
    a_program(places / "path", "kubectl", says=f"Client Version: {binaries.pinned('k8s.io/kubernetes')}")
    assert binaries.find("kubectl") == {"kubectl": given}


def test_path_comes_before_the_cache_if_the_minor_version_is_the_pinned_one(places: Path) -> None:
    minor = binaries.pinned("k8s.io/kubernetes").rpartition(".")[0]
    on_path = a_program(places / "path", "kubelet", says=f"Kubernetes {minor}.99")
    a_program(binaries.cache_directory(), "kubelet")
    assert binaries.search(PROGRAMS["kubelet"]) == on_path


@pytest.mark.parametrize("says", ["Kubernetes v1.20.2", "Kubernetes v1.3.7", "", "no version here"])
def test_another_version_on_path_is_passed_over_for_the_cache(places: Path, says: str) -> None:
    a_program(places / "path", "kubelet", says=says)
    cached = a_program(binaries.cache_directory(), "kubelet")
    assert binaries.search(PROGRAMS["kubelet"]) == cached


def test_a_file_that_cannot_be_executed_is_no_program(places: Path) -> None:
    (places / "assets" / "etcd").write_text("")
    assert binaries.search(PROGRAMS["etcd"]) is None


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_go_mod_pins_every_program(program: binaries.Program) -> None:
    assert program.version.startswith("v")
    assert f'_ "{program.package}"' in (program.directory / "tools.go").read_text()


def test_a_cache_directory_is_good_for_one_set_of_versions_only(places: Path) -> None:
    directory = binaries.cache_directory()
    assert directory.parent == places / "cache" / "kaito" / "bin"
    assert directory.name.startswith(binaries.pinned("k8s.io/kubernetes"))


def test_a_cache_that_cannot_be_written_is_said_in_one_line(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "file"))
    with pytest.raises(BinariesMissing, match=r"^cannot write to .*file.*: Not a directory$"):
        binaries.find("etcd")


def test_without_go_the_message_says_what_to_install(tmp_path: Path) -> None:
    source = go_build.Source("example.org/hello", tmp_path)
    with pytest.raises(go_build.BuildFailed, match="install Go"):
        go_build.build(source, tmp_path / "hello", go=None, name="hello", say=lambda _: None)


needs_go = pytest.mark.skipif(go_build.find_go() is None, reason="needs Go")


@needs_go
def test_go_builds_a_program_and_tells_what_it_does(tmp_path: Path) -> None:
    source = a_module(tmp_path, body='println("hello")')
    told: list[str] = []
    go_build.build(source, tmp_path / "hello", go=go_build.find_go(), name="hello", say=told.append)
    assert os.access(tmp_path / "hello", os.X_OK)
    assert [line.rpartition(" in ")[0] or line for line in told] == ["building hello from source", "built hello"]


@needs_go
def test_what_go_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    source = a_module(tmp_path, body="nonsense")
    with pytest.raises(go_build.BuildFailed, match=r"undefined: nonsense$"):
        go_build.build(source, tmp_path / "hello", go=go_build.find_go(), name="hello", say=lambda _: None)


def test_programs_are_stamped_with_their_versions() -> None:
    flags = go_build.stamp(kubernetes="v1.37.2", helm="v3.22.0").split()
    assert "k8s.io/component-base/version.gitVersion=v1.37.2" in flags
    assert "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37" in flags
    assert "helm.sh/helm/v3/internal/version.version=v3.22.0" in flags


def a_module(directory: Path, *, body: str) -> go_build.Source:
    """A Go module of one program without dependencies."""
    (directory / "go.mod").write_text("module example.org/hello\n\ngo 1.21\n")
    (directory / "main.go").write_text(f"package main\n\nfunc main() {{ {body} }}\n")
    return go_build.Source("example.org/hello", directory)
