"""Which torch an image gets, as $TORCH says: ``choose`` before the packages are installed, ``prune`` after that.

``python scripts/torch_flavour.py choose LOCK WHEELS OUTPUT`` writes the requirements that are installed:
    cuda  the lock as it is: torch of the package index, which on Linux is built for CUDA, and NVIDIA's libraries;
    cpu   the wheel ``torch-…+cpu-….whl`` if the directory WHEELS has one, and nothing of NVIDIA; else the lock's torch
          without triton, from which ``prune`` takes what a processor never loads.

``python scripts/torch_flavour.py prune``, by the Python that the packages were installed for, deletes for cpu
the files of NVIDIA's packages that importing torch does not load. All others torch is linked to: it cannot do without.
"""

import importlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path

FLAVOURS = ("cpu", "cuda")
FOR_GPUS = re.compile(r"(nvidia|cuda|triton)\b")
"""The beginnings of the names of packages that only a GPU needs."""
LOADED_BY_A_GPU_ALONE = ("nvidia/**/*", "bitsandbytes/libbitsandbytes_cuda*")
KEPT = {".py", ".pyc"}


def entries(lock: str) -> Iterator[str]:
    """The requirements of a lock, each with its hashes."""
    return (match[0] for match in re.finditer(r"^[A-Za-z0-9].*\n(?:^[ \t].*\n)*", lock, re.MULTILINE))


def choose(flavour: str, lock: str, *, wheels: Path) -> str:
    """The requirements for one flavour. Raises ValueError for one that does not exist."""
    if flavour not in FLAVOURS:
        raise ValueError(f"TORCH={flavour}: use {' or '.join(FLAVOURS)}")
    if flavour == "cuda":
        return lock
    wheel = next(iter(sorted(wheels.glob("torch-*+cpu-*.whl"))), None)
    if wheel is None:
        return "".join(entry for entry in entries(lock) if not entry.startswith("triton=="))
    kept = [entry for entry in entries(lock) if not FOR_GPUS.match(entry) and not entry.startswith("torch==")]
    with wheel.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    version = wheel.name.split("-")[1]
    return "".join(kept) + f"torch=={version} \\\n    --hash=sha256:{digest}\n"


def prune(packages: Path) -> int:
    """Deletes what only a GPU would load; how many bytes that were."""
    importlib.import_module("torch")
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    freed = 0
    for pattern in LOADED_BY_A_GPU_ALONE:
        for path in packages.glob(pattern):
            if path.is_file() and path.suffix not in KEPT and str(path.resolve()) not in loaded:
                freed += path.stat().st_size
                path.unlink()
    return freed


def main() -> int:
    """1 with one line that says what to write instead."""
    (command, *rest), flavour = sys.argv[1:], os.environ["TORCH"]
    if command == "prune":
        if flavour == "cpu":
            print(f"{prune(Path(sysconfig.get_path('platlib'))) >> 20} MB that only a GPU would load are left out")
        return 0
    lock, wheels, output = map(Path, rest)
    try:
        output.write_text(choose(flavour, lock.read_text(), wheels=wheels))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
