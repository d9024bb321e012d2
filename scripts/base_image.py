"""``python -m scripts.base_image``: an image with Debian and its Python, for where none can be pulled. As root.

Made by debootstrap from the package mirror of this machine, and put into the storage of buildah as ``localhost/NAME``.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = "kaito-base-debian12-python3"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python-is-python3", "python3", "python3-venv")
LEFT_OUT = (
    "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/cache", "var/lib/apt/lists", "var/log"
)  # fmt: skip
"""What a slim image has none of either: pages to read, and what the package manager can fetch again."""


def is_there() -> bool:
    """Whether the storage has it already."""
    asked = subprocess.run(["buildah", "inspect", "--type", "image", NAME], capture_output=True, check=False)
    return asked.returncode == 0


def make() -> None:
    """Makes it anew, without a word: what this program prints is the image's name. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        included = f"--include={','.join(PACKAGES)}"
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", included, SUITE, str(root)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise subprocess.CalledProcessError(made.returncode, "debootstrap", made.stdout[-2000:], made.stderr)
        for left_out in LEFT_OUT:
            shutil.rmtree(root / left_out, ignore_errors=True)
            (root / left_out).mkdir()
        recipe = Path(place) / "Dockerfile"
        recipe.write_text("FROM scratch\nCOPY . /\n")
        build = ["buildah", "build", "--isolation", "chroot", "--quiet", "--tag", NAME, "--file", str(recipe)]
        subprocess.run([*build, str(root)], check=True, capture_output=True, text=True)


def main() -> int:
    """Prints its name, which is what BASE of the Dockerfiles takes."""
    if not is_there():
        try:
            make()
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{error}\n{error.output or ''}{error.stderr or ''}\n")
            return 1
    print(f"localhost/{NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
