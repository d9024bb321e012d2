"""One file over HTTP: begun, broken off, gone on with by range, and counted against the caps of the whole step."""

import hashlib
import json
import re
import threading
import time
from pathlib import Path

import httpx

from presets.tuning_steps import ExitCode
from tuning_runner.address_guard import AddressRefused
from tuning_runner.patience import Interrupted, Patience, check_patience, trouble
from tuning_runner.sources import Source
from tuning_runner.transfer_ending import StepFailed

BOOKS = ".download"
"""The directory, within the target, of unfinished files; nobody takes what is in it for data."""
GIB = 1 << 30


class Budget:
    """What the whole step may take: bytes over all files, and seconds. Threads share it."""

    def __init__(self, *, max_bytes: int, seconds: float) -> None:
        self.max_bytes = max_bytes
        self._seconds = seconds
        self._ends = time.monotonic() + seconds
        self._files: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._cause: BaseException | None = None

    def stop(self, cause: BaseException) -> None:
        """Lets every file of the step end, all for the same reason: the one that failed first."""
        self._cause = self._cause or cause

    def count(self, name: str, *, have: int, total: int) -> None:
        """A file now has ``have`` bytes of ``total`` (0 if unknown). Raises StepFailed if a cap is passed."""
        with self._lock:
            self._files[name] = have, total
            expected = sum(max(pair) for pair in self._files.values())
        if expected > self.max_bytes:
            said = f"the files are larger than {self.max_bytes / GIB:g} GiB: use less data, or raise the limit"
            raise StepFailed(ExitCode.DOWNLOAD_REFUSED, said)
        self.check_time()

    def check_time(self) -> None:
        """Raises StepFailed if the time is over, or what made another file fail."""
        if self._cause:
            raise self._cause
        if time.monotonic() > self._ends:
            said = f"not done within {self._seconds:g} s: use less data or a nearer server, or raise the limit"
            raise StepFailed(ExitCode.DOWNLOAD_FAILED, said)

    def __str__(self) -> str:
        with self._lock:
            have, total = (sum(pair[i] for pair in self._files.values()) for i in (0, 1))
        return f"{have / 1e6:.1f} of {total / 1e6:.1f} MB in {len(self._files)} files"


def download_file(source: Source, *, client: httpx.Client, to: Path, budget: Budget, patience: Patience) -> Path:
    """The whole file, under a name of its own in BOOKS, as many attempts as it takes. Raises StepFailed."""
    part, attempt = part_path(to, source), 0
    while True:
        before = _size(part)
        try:
            _go_on(source, part, client=client, budget=budget)
            return part
        except AddressRefused as error:
            raise StepFailed(ExitCode.DOWNLOAD_REFUSED, str(error)) from None
        except httpx.TooManyRedirects:
            said = f"{source.shown} is redirected too often: give the address it ends at"
            raise StepFailed(ExitCode.DOWNLOAD_REFUSED, said) from None
        except (httpx.TransportError, Interrupted) as error:
            budget.check_time()
            attempt = 0 if _size(part) > before else attempt
            if not patience.wait(attempt, after=getattr(error, "after", 0)):
                said = f"{source.shown}: {trouble(error)}, {attempt + 1} times: try later, or use another server"
                raise StepFailed(ExitCode.DOWNLOAD_FAILED, said) from None
            attempt += 1


def part_path(to: Path, source: Source) -> Path:
    """Where a file is until it is whole.

    It belongs to the URL, name and all: after a change of the list, another URL of the same name begins anew.
    """
    identity = f"{source.url.host}{source.url.path}#{source.sha256}#{source.name}"
    return to / BOOKS / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.part"


def _go_on(source: Source, part: Path, *, client: httpx.Client, budget: Budget) -> None:
    """One attempt, from where the last one ended if the server still has the same file."""
    have, validator = _size(part), _read_validator(part)
    headers = {"range": f"bytes={have}-", "if-range": validator} if have and validator else {}
    with client.stream("GET", source.url, headers=headers, follow_redirects=True) as answer:
        check_patience(answer)
        if answer.status_code == 416 and headers:  # the file became shorter, or ended just where we did
            part.unlink()
            raise Interrupted("the file changed while it was downloaded")
        _check_answer(answer, source)
        if answer.status_code == 206 and _start(answer) != have:
            part.unlink(missing_ok=True)
            raise Interrupted("the server sent another range than the one asked for")
        start = have if answer.status_code == 206 else 0
        length = answer.headers.get("content-length", "")
        total = start + int(length) if length.isdigit() else 0
        budget.count(source.name, have=start, total=total)
        _write_validator(part, answer)
        _append(answer, part, start=start, name=source.name, total=total, budget=budget)
    if total and _size(part) != total:
        raise Interrupted(f"the answer ended after {_size(part)} of {total} bytes")
    if not _size(part):
        said = f"{source.shown} is empty: give a file with rows in it"
        raise StepFailed(ExitCode.DATA_INVALID, said)


def _append(answer: httpx.Response, part: Path, *, start: int, name: str, total: int, budget: Budget) -> None:
    with part.open("ab" if start else "wb") as file:
        for piece in answer.iter_raw():  # as they come: what is collected first would be lost with the connection
            file.write(piece)
            budget.count(name, have=file.tell(), total=total)


def _check_answer(answer: httpx.Response, source: Source) -> None:
    """Raises StepFailed for an answer that is not the file, and that no other attempt will better."""
    status = answer.status_code
    if status in (401, 403):
        said = f"{source.shown} answers {status}: use a public URL, or one with a signature that is still valid"
        raise StepFailed(ExitCode.DOWNLOAD_REFUSED, said)
    if status in (404, 410):
        raise StepFailed(ExitCode.DOWNLOAD_REFUSED, f"{source.shown} answers {status}: correct the URL")
    if status not in (200, 206):
        raise StepFailed(ExitCode.DOWNLOAD_REFUSED, f"{source.shown} answers {status}: give a URL that answers 200")
    if answer.headers.get("content-encoding", "identity") != "identity":
        said = f"{source.shown} is sent compressed though that was not asked for: use another server"
        raise StepFailed(ExitCode.DOWNLOAD_REFUSED, said)


def _start(answer: httpx.Response) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    return int(match.group(1)) if match else -1


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_validator(part: Path) -> str:
    """What says that the server's file is the one we have a part of; "" if the server gave nothing of the kind."""
    try:
        return str(json.loads(part.with_suffix(".json").read_text())["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_validator(part: Path, answer: httpx.Response) -> None:
    # A weak validator must not be used for ranges (RFC 9110 section 13.1.5).
    tag = answer.headers.get("etag", "")
    validator = tag if tag and not tag.startswith("W/") else answer.headers.get("last-modified", "")
    part.with_suffix(".json").write_text(json.dumps({"validator": validator}))
