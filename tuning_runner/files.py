"""The rows of all data files of a directory, each with its place, read as they come."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from presets.tuning_steps import ExitCode
from tuning_runner.transfer_ending import StepFailed

LONGEST_LINE = 16 << 20
"""Bytes of one row of text; longer ones no model reads."""
csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the file has it; ``value`` is None where it could not be read, and ``trouble`` says why."""

    file: str
    number: int
    value: Mapping[str, Any] | None
    trouble: str = ""

    @property
    def place(self) -> str:
        """File and row, as people count."""
        return f"{self.file} row {self.number}"


def read(directory: Path) -> Iterator[Row]:
    """Every row of every data file, the files in the order of their names. Raises StepFailed."""
    files = [path for path in given(directory) if _reader(path) is not None]
    if not files:
        told = f"there is no data file in {directory}: give {', '.join(sorted(READERS))}, of these text also as .gz"
        raise StepFailed(ExitCode.DATA_INVALID, told)
    for path in files:
        reader = _reader(path)
        if reader is not None:
            yield from _rows(path, reader, name=str(path.relative_to(directory)))


def given(directory: Path) -> list[Path]:
    """All files, by name; not those in places whose names begin with a dot, where the download keeps its own."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(directory).parts))


Reader = Callable[[Path], Iterator[tuple[Any, str]]]
"""Yields values, each with what is wrong with it."""


def _rows(path: Path, reader: Reader, *, name: str) -> Iterator[Row]:
    try:
        for number, (value, trouble) in enumerate(reader(path), start=1):
            if trouble or not isinstance(value, Mapping):
                yield Row(name, number, None, trouble or "is not an object with columns")
            else:
                yield Row(name, number, value)
    except (OSError, EOFError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise StepFailed(ExitCode.DATA_INVALID, f"{name} cannot be read: {' '.join(str(error).split())}") from error


def _reader(path: Path) -> Reader | None:
    """By the ending; text may be compressed."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if path.suffix == ".gz" and plain.suffix not in TEXT:
        return None
    return READERS.get(plain.suffix.lower())


def _text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Iterator[tuple[Any, str]]:
    with _text(path) as lines:
        for line in lines:
            if line.strip():
                try:
                    yield json.loads(line), ""
                except json.JSONDecodeError as error:
                    yield None, f"is no JSON: {error.msg} at character {error.pos + 1}"


def _json(path: Path) -> Iterator[tuple[Any, str]]:
    """A list of rows; or, as many name it so, one row a line."""
    with _text(path) as text:
        first = text.read(1024).lstrip()[:1]
    if first != "[":
        yield from _lines(path)
        return
    with _text(path) as text:
        yield from ((value, "") for value in json.load(text))


def _csv(path: Path) -> Iterator[tuple[Any, str]]:
    with _text(path) as text:
        for row in csv.DictReader(text, strict=True):
            yield row, "has more fields than the header" if None in row else ""


def _parquet(path: Path) -> Iterator[tuple[Any, str]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from ((value, "") for value in batch.to_pylist())


def _arrow(path: Path) -> Iterator[tuple[Any, str]]:
    """A stream, as the library datasets writes it, or a file."""
    from pyarrow import ArrowInvalid, ipc, memory_map

    with memory_map(str(path)) as source:
        try:
            batches = iter(ipc.open_stream(source))
        except ArrowInvalid:
            file = ipc.open_file(source)
            batches = (file.get_batch(index) for index in range(file.num_record_batches))
        for batch in batches:
            yield from ((value, "") for value in batch.to_pylist())


READERS: dict[str, Reader] = {
    ".arrow": _arrow,
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _lines,
    ".parquet": _parquet,
}
TEXT = (".csv", ".json", ".jsonl")
