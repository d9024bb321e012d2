"""Installs the two system packages of the local cluster when root, and names them otherwise.

Runs before there is a virtual environment, so it needs nothing but Python.
"""

import os
import shutil
import subprocess
import sys

PROGRAMS = {"bwrap": "bubblewrap", "nft": "nftables", "unshare": "util-linux"}
SBIN = ":/usr/sbin:/sbin"
"""Debian keeps nft here, and leaves it out of an ordinary user's PATH."""


def missing() -> list[str]:
    """The Debian packages whose programs are not there."""
    path = os.environ.get("PATH", "") + SBIN
    return [package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)]


def main() -> int:
    """0 when all is there; 1 with one line that says what to install."""
    wanted = missing()
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
