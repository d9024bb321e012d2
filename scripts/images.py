"""``make images``: both images, by whichever of docker, podman and buildah is there and works.

Asked for by the environment: ONLY (operator or preset), BUILDER, REGISTRY, TAG, PLATFORM; BASE, COMPILER, MODEL,
WEIGHTS, TORCH and WHEELS, which the Dockerfiles explain; PIP_CONFIG_FILE and PIP_CERT, as pip knows them: what they
name is a secret of the build.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from scripts.reference import ROOT

BUILD_ARGUMENTS = {"operator": ("BASE",), "preset": ("BASE", "COMPILER", "MODEL", "WEIGHTS", "TORCH", "WHEELS")}
BUILDERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "docker": (("docker", "build"), ("docker", "info")),
    "podman": (("podman", "build"), ("podman", "info")),
    # chroot: also where no user namespaces are to be had, as in a container; layers: a second build takes what is there
    "buildah": (("buildah", "build", "--layers", "--isolation", "chroot"), ("buildah", "info")),
}
"""Program → how it builds, and how it says that it works."""
SECRETS = {
    "pip": ("PIP_CONFIG_FILE", "/etc/pip.conf"),
    "certificates": ("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"),
}
"""Secret of the build → the variable that names its file, and the file where it is not set."""
NOBODY = (
    "no image was built: docker, podman and buildah are missing or do not work here; install one of them, "
    "and see that `docker info` finds its daemon\n"
)
VERSION = "0.1.0"


def builder(works: Callable[[tuple[str, ...]], bool], *, asked: str = "") -> tuple[str, ...] | None:
    """The first command that builds, or the one asked for; None if there is none."""
    return next((build for name, (build, check) in BUILDERS.items() if asked in ("", name) and works(check)), None)


def secrets(asked: Mapping[str, str], *, exists: Callable[[Path], bool] = Path.is_file) -> list[str]:
    """How this machine reaches its package index, as options of a build; none of it gets into the image."""
    files = {name: Path(asked.get(variable) or default) for name, (variable, default) in SECRETS.items()}
    return [word for name, file in files.items() if exists(file) for word in ("--secret", f"id={name},src={file}")]


def commands(
    build: tuple[str, ...], asked: Mapping[str, str], *, revision: str, created: str, given: Sequence[str] = ()
) -> list[list[str]]:
    """One command an image. ``given``: more options for each."""
    registry, tag = asked.get("REGISTRY") or "kaito", asked.get("TAG") or VERSION
    names = {"operator": "operator", "preset": f"kaito-{asked.get('MODEL') or 'runtime'}"}
    platform = ["--platform", asked["PLATFORM"]] if asked.get("PLATFORM") else []
    about = {"VERSION": tag, "REVISION": revision, "CREATED": created}
    made = []
    only = asked.get("ONLY") or ""
    for image, known in BUILD_ARGUMENTS.items():
        if only not in ("", image):
            continue
        values = {**about, **{name: asked[name] for name in known if asked.get(name)}}
        arguments = [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]
        where = ["--file", f"Dockerfile.{image}", "--tag", f"{registry}/{names[image]}:{tag}", "."]
        made.append([*build, *given, *platform, *arguments, *where])
    return made


def main() -> int:
    """Builds. Exit code 1 with one line when nothing here can."""
    build = builder(_works, asked=os.environ.get("BUILDER") or "")
    if build is None:
        sys.stderr.write(NOBODY)
        return 1
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    known = {"revision": revision.stdout.strip() or "unknown", "created": created}
    for command in commands(build, os.environ, given=secrets(os.environ), **known):
        print(" ".join(command), flush=True)
        done = subprocess.run(command, cwd=Path(ROOT), check=False)
        if done.returncode:
            return done.returncode
    return 0


def _works(check: tuple[str, ...]) -> bool:
    if shutil.which(check[0]) is None:
        return False
    return subprocess.run(check, capture_output=True, check=False, timeout=60).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
