"""What ``DATA_URLS`` asks for: per URL the file's name, and its digest where one is given. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

import httpx

from tuning_runner.address_guard import AddressRefused, parse_url

MAX_URLS = 1000
NAME_BYTES = 200
"""File systems take 255; the rest is for what we add."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file to download; ``sha256`` is "" where none is given."""

    url: httpx.URL
    name: str
    sha256: str = ""

    @property
    def shown(self) -> str:
        """The URL for people: without its query, which may hold a signature."""
        return f"{self.url.host}{self.url.path}"


def parse_sources(text: str) -> list[Source]:
    """The files of a whitespace-separated list of URLs. Raises AddressRefused, naming which URL is wrong."""
    words = text.split()
    if not words:
        raise AddressRefused("no URLs are given: set tuning.input.urls")
    if len(words) > MAX_URLS:
        raise AddressRefused(f"{len(words)} URLs are given: {MAX_URLS} at most")
    sources = []
    for number, word in enumerate(words, start=1):
        try:
            sources.append(_source(word))
        except AddressRefused as error:
            raise AddressRefused(f"URL {number}: {error}") from None
    return _with_distinct_names(sources)


def _source(text: str) -> Source:
    url = parse_url(text)
    if url.scheme not in ("http", "https"):
        raise AddressRefused(f"{url.scheme or 'no scheme'}:// is not downloaded from: write https://")
    if not url.host:
        raise AddressRefused("the URL names no host: write https://HOST/PATH")
    return Source(url.copy_with(fragment=None), name=file_name(url), sha256=_digest(url.fragment))


def file_name(url: httpx.URL) -> str:
    """The last part of the path, without the query. Raises AddressRefused if that is no file name."""
    name = PurePosixPath(unquote(url.raw_path.decode().partition("?")[0])).name if not url.path.endswith("/") else ""
    if not name or name.startswith(".") or re.search(r"[\x00-\x1f\x7f/\\]", name):
        raise AddressRefused(f"{url.host}{url.path!r} ends in no file name: end the path like …/train.parquet")
    if len(name.encode()) > NAME_BYTES:
        raise AddressRefused(f"the file name is {len(name.encode())} bytes long: {NAME_BYTES} at most")
    return name


def _digest(fragment: str) -> str:
    if not fragment:
        return ""
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if not match:
        raise AddressRefused("the part after # is no digest: write #sha256= and 64 hexadecimal digits")
    return match.group(1).lower()


def _with_distinct_names(sources: Sequence[Source]) -> list[Source]:
    """Two URLs of one file name make two files: the second gets ``-2`` before its suffixes."""
    taken: Mapping[str, None] = {}
    distinct = []
    for source in sources:
        stem, dot, suffix = source.name.partition(".")
        name, count = source.name, 1
        while name in taken:
            count += 1
            name = f"{stem}-{count}{dot}{suffix}"
        taken = {**taken, name: None}
        distinct.append(Source(source.url, name=name, sha256=source.sha256))
    return distinct
