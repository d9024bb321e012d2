"""Where the programs of the control plane are: found, downloaded or built, whichever comes first.

Search order, program by program: ``$KUBEBUILDER_ASSETS`` (the caller's word, taken as it is); PATH, if the version
there has the minor version that go.mod pins; our cache; the official release; ``go build``.

``python -m local_cluster.binaries`` fetches all that a cluster needs.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from local_cluster import go_build, releases
from local_cluster.errors import LocalClusterError

Say = Callable[[str], None]
"""Takes one line of progress for a person who waits."""


class BinariesMissing(LocalClusterError):
    """A program is nowhere and cannot be made; the message says what to install."""


GO_MODULE = Path(__file__).parent / "kubernetes"
KARPENTER = Path(__file__).parent / "karpenter"
"""A module of its own: Karpenter wants other versions of the same libraries. Tests alone run it."""
LEADS = {GO_MODULE: "k8s.io/kubernetes", KARPENTER: "sigs.k8s.io/karpenter"}
"""Whose version names the directory in the cache."""


@dataclass(frozen=True, slots=True)
class Program:
    """One executable: the Go package it is built from, the module that pins its version, how to ask it for that."""

    name: str
    package: str
    module: str
    ask_version: tuple[str, ...] = ("--version",)
    directory: Path = GO_MODULE
    """Of the go.mod that pins it."""

    @property
    def version(self) -> str:
        """The pinned version, with its v."""
        return pinned(self.module, self.directory)

    @property
    def cached(self) -> Path:
        """Where it lies once it was downloaded or built."""
        return cache_directory(self.directory) / self.name


def _kubernetes(name: str, *ask_version: str) -> Program:
    return Program(name, f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", ask_version or ("--version",))


PROGRAMS = {
    program.name: program
    for program in (
        Program("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubectl", "version", "--client"),
        Program("helm", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3", ("version", "--short")),
        Program(
            "registry",
            "github.com/distribution/distribution/v3/cmd/registry",
            "github.com/distribution/distribution/v3",
        ),
        Program("karpenter", "sigs.k8s.io/karpenter/kwok", "sigs.k8s.io/karpenter", directory=KARPENTER),
    )
}
CONTROL_PLANE = ("etcd", "kube-apiserver")
"""Enough for an API server that stores and validates."""
NODES = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
CLUSTER = (*CONTROL_PLANE, *NODES, "kubectl", "helm", "registry")
"""All that a local cluster runs or hands to its user."""


@cache
def pinned(module: str, directory: Path = GO_MODULE) -> str:
    """The version that a go.mod pins for a module."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (directory / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BinariesMissing(f"{directory / 'go.mod'} does not pin {module}")
    return found[1]


def cache_directory(directory: Path = GO_MODULE) -> Path:
    """Ours, of everything that go.sum pins: another pin is another directory, so nothing stale is ever found."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = sha256((directory / "go.sum").read_bytes()).hexdigest()[:8]
    return home / "kaito" / "bin" / f"{pinned(LEADS[directory], directory)}-{digest}"


def find(*names: str, say: Say | None = None) -> dict[str, Path]:
    """The path of each program asked for; fetches or builds what is nowhere, which takes minutes the first time.

    Raises BinariesMissing.
    """
    wanted = [PROGRAMS[name] for name in names or CLUSTER]
    found = {program.name: path for program in wanted if (path := search(program))}
    missing = [program for program in wanted if program.name not in found]
    if missing:
        found |= _fetch(missing, say or _to_stderr)
    return found


def search(program: Program) -> Path | None:
    """Where the program is already, or None."""
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        given = Path(assets) / program.name
        if os.access(given, os.X_OK):
            return given
    on_path = shutil.which(program.name)
    if on_path and _fits(on_path, program):
        return Path(on_path)
    return program.cached if os.access(program.cached, os.X_OK) else None


def _fits(path: str, program: Program) -> bool:
    """Whether it is of the pinned minor version: Debian's kubectl and etcd are years older."""
    try:
        asked = subprocess.run([path, *program.ask_version], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"\bv?(\d+\.\d+)\.\d+", asked.stdout)
    return version is not None and program.version.startswith(f"v{version[1]}.")


def _fetch(missing: list[Program], say: Say) -> dict[str, Path]:
    """Downloads or builds into the cache; every program appears there whole or not at all."""
    for program in missing:
        directory = program.cached.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _alone(directory / ".lock", say):
                if not os.access(program.cached, os.X_OK):  # another process may have built it while we waited
                    _fetch_one(program, say)
        except OSError as error:
            raise BinariesMissing(f"cannot write to {directory}: {error.strerror or error}") from error
    return {program.name: program.cached for program in missing}


def _fetch_one(program: Program, say: Say) -> None:
    part = program.cached.with_name(f".{program.name}.part")
    try:
        if not releases.download(program.name, program.version, part, say=say):
            versions = go_build.stamp(kubernetes=pinned("k8s.io/kubernetes"), helm=pinned("helm.sh/helm/v3"))
            source = go_build.Source(program.package, program.directory, versions)
            go_build.build(source, part, go=go_build.find_go(), name=program.name, say=say)
        part.chmod(0o755)
        part.rename(program.cached)
    except go_build.BuildFailed as error:
        raise BinariesMissing(f"{program.name} {program.version}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path, say: Say) -> Iterator[None]:
    """One builder at a time; the second waits and then finds everything done."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process fetches the control plane; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"· {line}\n")
    sys.stderr.flush()


def main() -> int:
    """0 when all programs of a cluster are there; 1 with one line that says what is missing."""
    try:
        find(*(sys.argv[1:] or CLUSTER))
    except BinariesMissing as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
