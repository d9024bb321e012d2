"""What a cluster leaves on disk: one directory per name, locked by the process that serves it.

The lock (flock on the directory itself) is the only truth about "is it running": it goes with its holder, however that
ends, so a crashed run never looks alive.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from local_cluster.errors import LocalClusterError

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?")
SOCKET_PATH_LIMIT = 107
"""sockaddr_un.sun_path holds 108 bytes, the last of them 0 (unix(7))."""


class Outcome(StrEnum):
    """How far a step of starting up is."""

    BEGUN = "begun"
    NOTED = "noted"
    DONE = "done"
    UP = "up"
    FAILED = "failed"


class ContainerRuntime(StrEnum):
    """What runs the containers of a cluster."""

    PROCESSES = "processes"
    CONTAINERD = "containerd"


@dataclass(frozen=True, slots=True)
class Progress:
    """One line about starting up: ``at`` seconds after the start, ``text`` for a person."""

    at: float
    outcome: Outcome
    text: str

    @property
    def last(self) -> bool:
        """Whether nothing follows: it is up, or it never will be."""
        return self.outcome in {Outcome.UP, Outcome.FAILED}


@dataclass(frozen=True, slots=True)
class Record:
    """What others need to find a running cluster: host process ids, the port of the API server on 127.0.0.1."""

    pid: int
    started: float
    api_port: int = 0
    init_pid: int = 0
    user_namespace: bool = False
    bare: bool = False
    runtime: ContainerRuntime = ContainerRuntime.PROCESSES


@dataclass(frozen=True, slots=True)
class ClusterDirectory:
    """The files of one cluster, as seen from outside or (at another place) from inside its namespace."""

    path: Path

    @classmethod
    def of(cls, name: str) -> "ClusterDirectory":
        """The directory of a cluster by name. Raises LocalClusterError for a name or a home that cannot work."""
        if not NAME.fullmatch(name):
            raise LocalClusterError(f"cluster name {name!r}: use at most 30 of a-z, 0-9 and '-', no '-' at the ends")
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        directory = cls(home.absolute() / "kaito" / name)
        length = len(os.fsencode(directory.socket))
        if length > SOCKET_PATH_LIMIT:
            raise LocalClusterError(
                f"{directory.socket} is {length} bytes, a socket's path may have {SOCKET_PATH_LIMIT}: "
                "use a shorter name or set XDG_STATE_HOME"
            )
        try:
            directory.path.exists()
        except PermissionError as error:
            raise LocalClusterError(
                f"{directory.path}: {error.strerror}; set XDG_STATE_HOME to a place of yours"
            ) from error
        return directory

    @property
    def socket(self) -> Path:
        """The unix socket that leads into the namespace."""
        return self.path / "in.sock"

    @property
    def kubeconfig(self) -> Path:
        """For programs outside the namespace, through the relay."""
        return self.path / "kubeconfig"

    @property
    def inside_kubeconfig(self) -> Path:
        """For programs inside the namespace."""
        return self.path / "inside.kubeconfig"

    @property
    def programs(self) -> Path:
        """Links to the programs of the cluster; first on PATH of ``kaito local run``."""
        return self.path / "bin"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.path / "logs"

    @property
    def nodes(self) -> Path:
        """One directory per node."""
        return self.path / "nodes"

    def lock(self) -> int | None:
        """Takes the lock; the file descriptor to keep open, or None if another process serves this cluster."""
        a_moment = threading.Event()
        for _ in range(20):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    return descriptor
            except BlockingIOError:
                a_moment.wait(0.02)  # it may be no more than a look by ``served``
            os.close(descriptor)  # or ``down`` removed the directory between our open and our lock
        return None

    def served(self) -> bool:
        """Whether a living process serves this cluster."""
        if not self.path.exists():
            return False
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def empty(self) -> None:
        """Removes all that an earlier run left; for the holder of the lock."""
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, onerror=_retry_writable)
            else:
                entry.unlink()

    def remove(self) -> None:
        """Removes the directory and all in it; for the holder of the lock."""
        self.empty()
        self.path.rmdir()

    def write_record(self, record: Record) -> None:
        """Replaces the record, whole or not at all."""
        part = self.path / "cluster.json.part"
        part.write_text(json.dumps(asdict(record)))
        part.rename(self.path / "cluster.json")

    def record(self) -> Record | None:
        """The record of the running cluster; None while there is none."""
        try:
            written = json.loads((self.path / "cluster.json").read_text())
            return Record(**{**written, "runtime": ContainerRuntime(written["runtime"])})
        except FileNotFoundError:
            return None

    def report(self, outcome: Outcome, text: str) -> None:
        """Adds a line of progress. Both sides of the namespace append to the one file."""
        record = self.record()
        line = Progress(at=round(time.time() - record.started, 1) if record else 0.0, outcome=outcome, text=text)
        with (self.path / "progress.jsonl").open("a") as out:
            out.write(json.dumps(asdict(line)) + "\n")

    def progress(self) -> list[Progress]:
        """All lines so far."""
        try:
            text = (self.path / "progress.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [_progress(json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def follow(self) -> Iterator[Progress]:
        """Every line of progress as it comes, to the last; a run that dies without a word gets its last line here."""
        seen, between_looks = 0, threading.Event()
        while True:
            served = self.served()  # asked first, so that lines written just before the end are read below
            lines = self.progress()
            yield from lines[seen:]
            seen = len(lines)
            if lines and lines[-1].last:
                return
            if not served:
                at = lines[-1].at if lines else 0.0
                yield Progress(at, Outcome.FAILED, self._last_words())
                return
            between_looks.wait(0.05)

    def _last_words(self) -> str:
        """Why a run may have ended that did not say so itself."""
        try:
            lines = (self.logs / "serve.log").read_text(errors="replace").split("\n")
        except FileNotFoundError:
            return "stopped before it was up"
        return ": ".join(["the cluster's process ended", *[line for line in lines if line.strip()][-1:]])


def _progress(line: dict[str, Any]) -> Progress:
    return replace(Progress(**line), outcome=Outcome(line["outcome"]))


def _retry_writable(function: Callable[..., Any], path: str, _: object) -> None:
    """Containers leave directories that even their owner may not write to."""
    for place in (Path(path).parent, Path(path)):
        if not place.is_symlink():
            place.chmod(stat.S_IRWXU)
    if function in {os.open, os.scandir}:
        shutil.rmtree(path)
    else:
        function(path)
