"""Which processes belong to a cluster, and what memory they take."""

import os
from dataclasses import dataclass
from pathlib import Path

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Usage:
    """One process: its id outside the namespace, what it runs, its resident memory."""

    pid: int
    name: str
    rss_mb: int


def below(pid: int) -> tuple[Usage, ...]:
    """The process and all its descendants, biggest first."""
    parents = {int(entry.name): parent for entry in Path("/proc").glob("[0-9]*") if (parent := _parent(entry))}
    family = {pid}
    for child in sorted(parents):  # a child may have a lower number than its parent once numbers wrap around
        line = [child]
        while line[-1] in parents and line[-1] not in family:
            line.append(parents[line[-1]])
        if line[-1] in family:
            family.update(line)
    found = [usage for member in family if (usage := _usage(member))]
    return tuple(sorted(found, key=lambda usage: -usage.rss_mb))


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _usage(pid: int) -> Usage | None:
    """None for a process that ended meanwhile."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Usage(pid, _name(words), round(pages * PAGE_MB))


def _name(words: list[str]) -> str:
    """What a command line runs: the program, or the module that Python runs and its first argument."""
    if len(words) > 2 and words[1] == "-m":
        return " ".join(word for word in words[2:4] if word)
    return Path(words[0]).name or "?"
