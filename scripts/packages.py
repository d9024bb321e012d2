"""Installs the system packages of the local cluster when root, names them otherwise; ``e2e`` asks for containers too.

Runs before there is a virtual environment, so it needs nothing but Python.
"""

import os
import shutil
import subprocess
import sys

PROGRAMS = {"bwrap": "bubblewrap", "nft": "nftables", "unshare": "util-linux"}
OF_CONTAINERS = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}
SBIN = ":/usr/sbin:/sbin"
"""Debian keeps nft here, and leaves it out of an ordinary user's PATH."""


def missing(programs: dict[str, str]) -> list[str]:
    """The Debian packages whose programs are not there."""
    path = os.environ.get("PATH", "") + SBIN
    return [package for program, package in programs.items() if not shutil.which(program, path=path)]


def main() -> int:
    """0 when all is there; 1 with one line that says what to install."""
    wanted = missing({**PROGRAMS, **OF_CONTAINERS} if "e2e" in sys.argv else PROGRAMS)
    if not wanted:
        return 0
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"please install first: {' '.join(wanted)} (Debian: apt-get install {' '.join(wanted)})", file=sys.stderr)
        return 1
    print(f"· system packages: {' '.join(wanted)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
