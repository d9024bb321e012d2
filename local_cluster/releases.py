"""Downloads a program of the control plane from its project's official releases, checked against its SHA-256."""

import hashlib
import platform
import queue
import shutil
import ssl
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from local_cluster.errors import LocalClusterError

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
REACHABLE_WITHIN = 2.5
"""Seconds for one answer from a release host; without one we build instead."""
KUBERNETES = "https://dl.k8s.io/release"


class DownloadFailed(LocalClusterError):
    """A release could not be had, or is not what was published."""


@dataclass(frozen=True, slots=True)
class Release:
    """One file to download: the file with its checksum, and the path inside if it is an archive."""

    url: str
    checksums: str
    member: str = ""


def release(name: str, version: str, *, arch: str) -> Release | None:
    """Where the project publishes the program; None where it publishes none."""
    match name:
        case "etcd":
            base, archive = (
                f"https://github.com/etcd-io/etcd/releases/download/{version}",
                f"etcd-{version}-linux-{arch}",
            )
            return Release(f"{base}/{archive}.tar.gz", f"{base}/SHA256SUMS", f"{archive}/etcd")
        case "helm":
            url = f"https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz"
            return Release(url, f"{url}.sha256sum", f"linux-{arch}/helm")
        case "registry":
            base = f"https://github.com/distribution/distribution/releases/download/{version}"
            url = f"{base}/registry_{version.removeprefix('v')}_linux_{arch}.tar.gz"
            return Release(url, f"{url}.sha256", "registry")
        case "karpenter":
            return None  # the provider without a cloud is built from source by whoever wants it
        case _:
            url = f"{KUBERNETES}/{version}/bin/linux/{arch}/{name}"
            return Release(url, f"{url}.sha256")


def download(name: str, version: str, target: Path, *, say: Callable[[str], None]) -> bool:
    """Whether ``target`` now is the released program. False if it is not to be had."""
    arch = MACHINES.get(platform.machine())
    source = release(name, version, arch=arch) if arch else None
    if source is None or not reachable(urlsplit(source.url).netloc):
        return False
    say(f"downloading {name} {version}")
    try:
        fetch(source, target)
    except DownloadFailed as error:
        say(f"{name} cannot be downloaded: {error}")
        return False
    return True


def fetch(source: Release, target: Path) -> None:
    """Writes the program to ``target``. Raises DownloadFailed, for a wrong checksum too."""
    try:
        expected = checksum(_text(source.checksums), urlsplit(source.url).path.rsplit("/", 1)[-1])
        actual = _copy(source.url, target)
        if actual != expected:
            raise DownloadFailed(f"{source.url} has the SHA-256 {actual}, published is {expected}")
        if source.member:
            _unpack(target, source.member)
    except (urllib.error.URLError, TimeoutError, ConnectionError, tarfile.TarError) as error:
        raise DownloadFailed(f"{source.url}: {error}") from error
    except KeyError as missing:
        raise DownloadFailed(f"{source.url}: {missing} is not in it or its checksums") from missing


def checksum(text: str, filename: str) -> str:
    """A file's SHA-256 from a checksum file: one bare digest, or lines of digest and file name. Raises KeyError."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) == 1:
        return lines[0][0]
    return {words[-1].lstrip("*"): words[0] for words in lines}[filename]


@cache
def reachable(host: str) -> bool:
    """Whether the host answers at all, found out once and within seconds: a lookup of names may hang for minutes."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_answers(host)), daemon=True).start()
    try:
        return answers.get(timeout=REACHABLE_WITHIN)
    except queue.Empty:
        return False


def _answers(host: str) -> bool:
    question = urllib.request.Request(f"https://{host}/", method="HEAD")
    try:
        with urllib.request.urlopen(question, timeout=REACHABLE_WITHIN):  # noqa: S310 - https, from the table above
            return True
    except urllib.error.HTTPError as answer:
        return answer.code not in {403, 407, 502, 503, 504}  # what proxies say who will not or cannot pass it on
    except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError):
        return False


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - https, from the table above
        text: str = answer.read().decode()
    return text


def _copy(url: str, target: Path) -> str:
    """Writes the body to ``target``; its SHA-256."""
    with urllib.request.urlopen(url, timeout=30) as answer, target.open("wb") as out:  # noqa: S310
        shutil.copyfileobj(answer, out, 1 << 20)
    with target.open("rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()


def _unpack(target: Path, member: str) -> None:
    """Replaces the archive ``target`` by one of its members."""
    packed = target.rename(target.with_name(f"{target.name}.tar.gz"))
    try:
        with tarfile.open(packed) as archive:
            content = archive.extractfile(member)
            if content is None:
                raise KeyError(member)
            with target.open("wb") as out:
                shutil.copyfileobj(content, out)
    finally:
        packed.unlink()
