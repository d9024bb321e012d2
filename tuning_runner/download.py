"""``python -m tuning_runner.download``: brings the files of DATA_URLS to a directory, whole or not at all."""

import argparse
import gzip
import hashlib
import logging
import os
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from presets.tuning_steps import ExitCode
from tuning_runner import address_guard
from tuning_runner.address_guard import AddressRefused, Guard, parse_networks
from tuning_runner.download_file import BOOKS, Budget, download_file, part_path
from tuning_runner.patience import Patience
from tuning_runner.sources import Source, parse_sources
from tuning_runner.transfer_ending import StepFailed, run_step

PARALLEL = 4
PIECE = 1 << 20
TELL_EVERY = 10.0
"""Seconds between two lines of progress."""
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The step: 0, or the exit code that says why not."""
    return run_step(lambda: _step(argv), failed=ExitCode.DOWNLOAD_FAILED)


def _step(argv: Sequence[str] | None) -> Mapping[str, object]:
    parser = argparse.ArgumentParser(prog="tuning_runner.download", exit_on_error=False)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--max_gib", type=float, default=100.0)
    parser.add_argument("--time_limit", type=float, default=6 * 3600.0)
    try:
        given = parser.parse_args(argv)
        guard = Guard(allowed=parse_networks(given.allow))
    except (argparse.ArgumentError, ValueError) as error:
        raise StepFailed(ExitCode.CONFIG_INVALID, str(error)) from None
    try:
        sources = parse_sources(os.environ.get("DATA_URLS", ""))
    except AddressRefused as error:
        raise StepFailed(ExitCode.DOWNLOAD_REFUSED, str(error)) from None
    budget = Budget(max_bytes=int(given.max_gib * (1 << 30)), seconds=given.time_limit)
    return download(sources, to=given.to, guard=guard, budget=budget)


def download(
    sources: Sequence[Source], *, to: Path, guard: Guard, budget: Budget, patience: Patience | None = None
) -> Mapping[str, object]:
    """Brings all files. What was begun before is gone on with; what is there already is not fetched again.

    Raises StepFailed.
    """
    (to / BOOKS).mkdir(parents=True, exist_ok=True)
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(budget, done), daemon=True)
    teller.start()
    try:
        with address_guard.client(guard) as client, ThreadPoolExecutor(PARALLEL) as pool:
            files = _all(pool.map(lambda s: _one(s, client, to, budget, patience or Patience()), sources), budget)
    finally:
        done.set()
        teller.join()
    return {"files": files, "bytes": sum((to / source.name).stat().st_size for source in sources)}


def _all(coming: Iterator[Mapping[str, str]], budget: Budget) -> list[Mapping[str, str]]:
    """What all threads bring; a SIGTERM, which this one gets, stops them."""
    try:
        return list(coming)
    except StepFailed as error:
        budget.stop(error)
        raise


def _one(source: Source, client: httpx.Client, to: Path, budget: Budget, patience: Patience) -> Mapping[str, str]:
    """One file, checked. The first failure stops the others: none of them is of use without it."""
    if digest := _there_already(source, to):
        return {"name": source.name, "sha256": digest}
    try:
        part = download_file(source, client=client, to=to, budget=budget, patience=patience)
        digest = file_digest(part)
        if source.sha256 and digest != source.sha256:
            part.unlink()
            said = f"{source.shown} has sha256 {digest}, not {source.sha256}: correct the one after # or the file"
            raise StepFailed(ExitCode.DATA_INVALID, said)
        check_gzip(part, name=source.name, limit=budget.max_bytes)
        _keep(part, to / source.name)
    except (StepFailed, OSError) as error:
        budget.stop(error)
        raise
    log.info("%s: done", source.shown)
    return {"name": source.name, "sha256": digest}


def _there_already(source: Source, to: Path) -> str:
    """The digest of a file that an earlier run brought whole; "" if it did not, or it is another one by now."""
    record = part_path(to, source).with_suffix(".done")
    try:
        digest, there = record.read_text(), file_digest(to / source.name)
    except FileNotFoundError:
        return ""
    return digest if digest == there and source.sha256 in ("", digest) else ""


def _keep(part: Path, target: Path) -> None:
    """Gives the whole file its name, once it is on the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.with_suffix(".done").write_text(file_digest(part))
    part.replace(target)


def file_digest(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_gzip(path: Path, *, name: str, limit: int) -> None:
    """Raises StepFailed for a .gz that is none, is broken, or unpacks to more than ``limit`` bytes."""
    if not name.endswith(".gz"):
        return
    unpacked = 0
    try:
        with gzip.open(path) as file:
            while piece := file.read(PIECE):
                unpacked += len(piece)
                if unpacked > limit:
                    said = f"{name} unpacks to more than {limit / (1 << 30):g} GiB: split it, or raise the limit"
                    raise StepFailed(ExitCode.DOWNLOAD_REFUSED, said)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise StepFailed(ExitCode.DATA_INVALID, f"{name} is no whole gzip file: compress it again") from None


def _tell(budget: Budget, done: threading.Event) -> None:
    while not done.wait(TELL_EVERY):
        log.info("downloading: %s", budget)


if __name__ == "__main__":
    sys.exit(main())
