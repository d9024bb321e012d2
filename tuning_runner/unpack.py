"""What of an image's layers lies in ``/data``: regular files only, below one directory only, up to a size."""

import contextlib
import gzip
import importlib
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

ROOT = "data"
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
MAX_MEMBERS = 200_000
NAME_BYTES = 255
PIECE = 1 << 20


class BadLayer(Exception):
    """A layer that must not or cannot be unpacked; the message says why."""


@dataclass(slots=True)
class Unpacking:
    """A tree that layers are laid over, lowest first; ``limit`` is in bytes over all of them."""

    tree: Path
    limit: int
    used: int = 0
    members: int = 0

    def add(self, layer: Path, *, media_type: str) -> None:
        """Lays a layer over what is there. Raises BadLayer."""
        fresh: set[Path] = set()
        try:
            with opened(layer, media_type=media_type) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    self._count(member)
                    if parts := _below_root(member.name):
                        self._member(tar, member, parts, fresh=fresh)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError):
            raise BadLayer("a layer is no whole tar file: push the image again") from None

    def _count(self, member: tarfile.TarInfo) -> None:
        self.members += 1
        self.used += max(member.size, 0) if member.isreg() else 0
        if self.members > MAX_MEMBERS:
            raise BadLayer(f"the image has more than {MAX_MEMBERS} files: pack them into fewer")
        if self.used > self.limit:
            raise BadLayer(
                f"the image unpacks to more than {self.limit / (1 << 30):g} GiB: use less, or raise the limit"
            )

    def _member(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...], *, fresh: set[Path]
    ) -> None:
        target = self.tree.joinpath(*parts)
        if target.name == OPAQUE:
            self._empty(target.parent, fresh=fresh)
        elif target.name.startswith(WHITEOUT):
            _remove(target.with_name(target.name.removeprefix(WHITEOUT)))
        elif member.isdir():
            if target.is_file():
                target.unlink()
            target.mkdir(parents=True, exist_ok=True)
        elif member.isreg():
            self._file(tar, member, target)
            fresh.update((target, *target.parents))
        else:
            raise BadLayer(f"/{member.name} in the image is a link or a device: put a plain file there")

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        for parent in target.parents:
            if parent.is_file():
                parent.unlink()  # an upper layer made a directory of it
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        if source is None:
            raise BadLayer(f"/{member.name} in the image has no content")
        with target.open("wb") as file:
            shutil.copyfileobj(source, file, PIECE)

    def _empty(self, directory: Path, *, fresh: set[Path]) -> None:
        """Takes away what lower layers have in a directory, wherever in this layer's tar the sign for it stands."""
        for below in sorted(directory.rglob("*"), reverse=True) if directory.is_dir() else ():
            if below not in fresh:
                _remove(below)


@contextlib.contextmanager
def opened(layer: Path, *, media_type: str) -> Iterator[IO[bytes]]:
    """The bytes of a layer's tar; what compresses it is told by its first bytes. Raises BadLayer."""
    with layer.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(layer) as unzipped:
            yield cast(IO[bytes], unzipped)
    elif start == b"\x28\xb5\x2f\xfd":
        with _zstd(layer) as unzipped:
            yield unzipped
    elif "+" in media_type and not media_type.endswith(("+gzip", "+zstd")):
        raise BadLayer(f"a layer of type {media_type} cannot be unpacked: push it as tar, tar+gzip or tar+zstd")
    else:
        with layer.open("rb") as file:
            yield file


def _zstd(layer: Path) -> Any:
    """A zstd stream; pyarrow, which the data sets bring along, has a decoder."""
    try:
        return importlib.import_module("pyarrow").input_stream(str(layer), compression="zstd")
    except ImportError:
        raise BadLayer("a layer is compressed with zstd, which this image cannot read: push it with gzip") from None


def _below_root(name: str) -> tuple[str, ...]:
    """The parts of a member's name below ``/data``; none if it is elsewhere. Raises BadLayer for a climbing name."""
    if "\0" in name:
        raise BadLayer("a name in the image has a NUL in it")
    parts = tuple(part for part in PurePosixPath(name).parts if part not in ("/", "."))
    if ".." in parts:
        raise BadLayer(f"{name[:100]!r} in the image climbs out of its directory: build the image again")
    if any(len(part.encode(errors="surrogateescape")) > NAME_BYTES for part in parts):
        raise BadLayer(f"a name in the image is longer than {NAME_BYTES} bytes: shorten it")
    if parts and parts[0] == WHITEOUT + ROOT:
        return (WHITEOUT,)
    return parts[1:] if parts[:1] == (ROOT,) else ()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
