"""``python -m scripts.base_image [compiler]``: Debian and its Python as an image, where none can be pulled; as root.

Made by debootstrap from the package mirror of this machine, and put into the storage of buildah as ``localhost/NAME``;
``compiler``: with a C compiler, for a stage of a build whose files alone are kept.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python-is-python3", "python3", "python3-venv")
IMAGES = {
    "base": ("kaito-base-debian12-python3", PACKAGES),
    "compiler": ("kaito-compiler-debian12-python3", (*PACKAGES, "gcc", "libc6-dev")),
}
"""What is asked for → the image's name, and what is in it beside the minimum."""
LEFT_OUT = (
    "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/cache", "var/lib/apt/lists", "var/log"
)  # fmt: skip
"""What a slim image has none of either: pages to read, and what the package manager can fetch again."""


def is_there(name: str) -> bool:
    """Whether the storage has it already."""
    asked = subprocess.run(["buildah", "inspect", "--type", "image", name], capture_output=True, check=False)
    return asked.returncode == 0


def make(name: str, packages: tuple[str, ...]) -> None:
    """Makes it anew, without a word: what this program prints is the image's name. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        included = f"--include={','.join(packages)}"
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
        build = ["buildah", "build", "--isolation", "chroot", "--quiet", "--tag", name, "--file", str(recipe)]
        subprocess.run([*build, str(root)], check=True, capture_output=True, text=True)


def main() -> int:
    """Prints its name, which is what BASE and COMPILER of the Dockerfiles take."""
    if len(sys.argv) > 2 or not set(sys.argv[1:]) <= set(IMAGES):
        sys.stderr.write(f"usage: python -m scripts.base_image [{' | '.join(IMAGES)}]\n")
        return 2
    name, packages = IMAGES[sys.argv[1] if sys.argv[1:] else "base"]
    if not is_there(name):
        try:
            make(name, packages)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{error}\n{error.output or ''}{error.stderr or ''}\n")
            return 1
    print(f"localhost/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
