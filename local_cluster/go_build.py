"""Builds one program of the control plane from source: the last resort, minutes when cold, seconds when warm."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError

USUAL_PLACE = "/usr/local/go/bin"
"""Where Go's own installation instructions put it, which is on few PATHs."""
BETWEEN_REPORTS = 20.0
"""Seconds between two lines of progress."""


class BuildFailed(LocalClusterError):
    """No Go, or Go refused; the message is one line."""


def find_go() -> str | None:
    """Go's path; None where there is no Go."""
    return shutil.which("go") or shutil.which("go", path=USUAL_PLACE)


@dataclass(frozen=True, slots=True)
class Source:
    """A package and the directory whose go.mod and go.sum say which versions it is built from."""

    package: str
    module: Path
    ldflags: str = ""


def build(source: Source, target: Path, *, go: str | None, name: str, say: Callable[[str], None]) -> None:
    """Builds into the file ``target``; ``name`` is for the lines of progress. Raises BuildFailed."""
    if go is None:
        raise BuildFailed("not found, no release can be downloaded, and there is no Go to build it: install Go 1.26")
    started = time.monotonic()
    say(f"building {name} from source")
    argv = [go, "build", "-v", "-trimpath", "-ldflags", source.ldflags, "-o", str(target.absolute()), source.package]
    # Kubernetes itself is released without cgo; -mod=readonly makes go.sum the last word.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    with subprocess.Popen(
        argv,
        cwd=source.module,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as building:
        output = _follow(building, lambda packages: say(f"building {name}: {packages} packages, {_since(started)}"))
    if building.returncode:
        raise BuildFailed(f"go build failed: {_first_error(output)}")
    say(f"built {name} in {_since(started)}")


def stamp(*, kubernetes: str, helm: str) -> str:
    """Linker flags: no symbols, and the versions, without which Kubernetes is v0.0.0 and Helm takes it for v1.20."""
    major, minor, _ = kubernetes.removeprefix("v").split(".", 2)
    component, chartutil = "k8s.io/component-base/version", "helm.sh/helm/v3/pkg/chartutil"
    stamped = {
        f"{component}.gitVersion": kubernetes,
        f"{component}.gitMajor": major,
        f"{component}.gitMinor": minor,
        f"{component}.gitTreeState": "clean",
        f"{chartutil}.k8sVersionMajor": major,
        f"{chartutil}.k8sVersionMinor": minor,
        "helm.sh/helm/v3/internal/version.version": helm,
    }
    return " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in stamped.items())])


def _follow(building: subprocess.Popen[str], report: Callable[[int], None]) -> list[str]:
    """All lines of output (``-v`` names each package as it is compiled); reports their number while it grows."""
    output: list[str] = []
    done = threading.Event()

    def report_now_and_then() -> None:
        while not done.wait(BETWEEN_REPORTS):
            report(len(output))

    reporter = threading.Thread(target=report_now_and_then, daemon=True)
    reporter.start()
    try:
        output.extend(line.rstrip() for line in building.stdout or ())
    except BaseException:  # interrupted: a build nobody waits for any more must not go on
        building.kill()
        raise
    finally:
        done.set()
        reporter.join()
    return output


def _first_error(output: list[str]) -> str:
    """The line of Go's output that says what is wrong: one with a colon, for package names have none."""
    return next((line for line in output if ": " in line), output[-1] if output else "no output")


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s"
