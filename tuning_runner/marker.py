"""The marker of a training that reached its last step: written last, in one go, with the digests of what it made."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MARKER = "results.json"
ADAPTER = "adapter"


def digest(path: Path) -> str:
    """``sha256:…`` of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digests(files: Iterable[Path], *, below: Path) -> list[dict[str, str]]:
    """Name and digest of each file, by name."""
    return [{"name": str(path.relative_to(below)), "sha256": digest(path)} for path in sorted(files)]


def write(results: Path, facts: Mapping[str, Any]) -> None:
    """Adds the digests of the adapter's files. A crash leaves no marker or a whole one."""
    files = {
        entry["name"]: entry["sha256"] for entry in digests((results / ADAPTER).iterdir(), below=results / ADAPTER)
    }
    partial = results / f".{MARKER}"
    with partial.open("w") as file:
        json.dump({**facts, "files": files}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(results / MARKER)


def made(results: Path) -> dict[str, Any]:
    """Steps and losses of what is done."""
    facts = json.loads((results / MARKER).read_text())
    return {key: facts[key] for key in ("steps", "loss", "eval_loss") if key in facts}


def is_done(results: Path, asked: Mapping[str, Any]) -> bool:
    """Whether exactly this has been trained already, and every file of it is still what it was."""
    try:
        facts = json.loads((results / MARKER).read_text())
        return all(facts.get(key) == value for key, value in asked.items()) and all(
            digest(results / ADAPTER / name) == known for name, known in facts["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False
