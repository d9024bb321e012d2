"""What a cluster leaves on disk, and who may touch it."""

import os
import threading
import time
from pathlib import Path

import pytest

from local_cluster.errors import LocalClusterError
from local_cluster.state import ClusterDirectory, Outcome, Progress, Record


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterDirectory:
    """The directory of a cluster called one, which is not there yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return ClusterDirectory.of("one")


@pytest.mark.parametrize("name", ["", "Upper", "a_b", "-a", "a-", "a/b", "..", "a" * 31, "ü"])
def test_a_name_that_cannot_be_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(LocalClusterError, match="use at most 30 of a-z"):
        ClusterDirectory.of(name)


def test_a_home_too_long_for_a_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = 107 - len("//kaito/one/in.sock")
    monkeypatch.setenv("XDG_STATE_HOME", "/" + "x" * fitting)
    assert len(os.fsencode(ClusterDirectory.of("one").socket)) == 107
    monkeypatch.setenv("XDG_STATE_HOME", "/" + "x" * (fitting + 1))
    with pytest.raises(LocalClusterError, match=r"is 108 bytes, a socket's path may have 107"):
        ClusterDirectory.of("one")


def test_the_lock_has_one_holder_and_goes_with_it(directory: ClusterDirectory) -> None:
    assert not directory.served()
    held = directory.lock()
    assert held is not None
    assert directory.served()
    assert directory.lock() is None
    os.close(held)
    assert not directory.served()
    again = directory.lock()
    assert again is not None
    os.close(again)


def test_the_directory_is_for_its_owner_alone(directory: ClusterDirectory) -> None:
    held = directory.lock()
    assert held is not None
    assert directory.path.stat().st_mode & 0o777 == 0o700
    os.close(held)


def test_emptying_removes_what_crashed_runs_and_containers_leave(directory: ClusterDirectory) -> None:
    stubborn = directory.path / "nodes" / "volume" / "read-only"
    stubborn.mkdir(parents=True)
    (stubborn / "file").write_text("")
    stubborn.chmod(0o500)
    stubborn.parent.chmod(0)
    (directory.path / "link").symlink_to("/nowhere")
    (directory.path / "progress.jsonl").write_text("{")
    directory.empty()
    assert list(directory.path.iterdir()) == []


def test_a_link_is_removed_and_not_what_it_leads_to(directory: ClusterDirectory, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    directory.programs.mkdir(parents=True)
    (directory.programs / "etcd").symlink_to(tmp_path / "precious")
    (directory.path / "direct").symlink_to(tmp_path / "precious")
    directory.remove()
    assert not directory.path.exists()
    assert (tmp_path / "precious").is_dir()


def test_a_record_is_read_as_it_was_written(directory: ClusterDirectory) -> None:
    directory.path.mkdir(parents=True)
    assert directory.record() is None
    record = Record(pid=12, started=3.5, api_port=4000, init_pid=13, user_namespace=False)
    directory.write_record(record)
    assert directory.record() == record
    assert [path.name for path in directory.path.iterdir()] == ["cluster.json"]


def test_progress_is_followed_to_its_last_line(directory: ClusterDirectory) -> None:
    held = directory.lock()
    assert held is not None
    directory.write_record(Record(pid=os.getpid(), started=time.time()))
    directory.report(Outcome.BEGUN, "API server")
    followed: list[Progress] = []
    follower = threading.Thread(target=lambda: followed.extend(directory.follow()))
    follower.start()
    directory.report(Outcome.DONE, "API server")
    directory.report(Outcome.UP, "cluster one is up")
    follower.join(timeout=120)
    os.close(held)
    assert [(line.outcome, line.text) for line in followed] == [
        (Outcome.BEGUN, "API server"),
        (Outcome.DONE, "API server"),
        (Outcome.UP, "cluster one is up"),
    ]
    assert all(0 <= line.at < 120 for line in followed)


def test_a_run_that_dies_without_a_word_gets_a_last_line(directory: ClusterDirectory) -> None:
    directory.path.mkdir(parents=True)
    directory.report(Outcome.BEGUN, "API server")
    assert [line.outcome for line in directory.follow()] == [Outcome.BEGUN, Outcome.FAILED]


def test_a_half_written_line_waits_for_its_end(directory: ClusterDirectory) -> None:
    directory.path.mkdir(parents=True)
    directory.report(Outcome.BEGUN, "API server")
    with (directory.path / "progress.jsonl").open("a") as out:
        out.write('{"at": 1')
    assert len(directory.progress()) == 1
