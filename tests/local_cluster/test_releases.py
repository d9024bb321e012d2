"""Official releases: what is downloaded is what was published, or nothing."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local_cluster import binaries, releases
from local_cluster.releases import DownloadFailed, Release, checksum


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory and the URL that serves it."""
    directory = tmp_path / "published"
    directory.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield directory, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_program_with_the_published_checksum_is_taken(published: tuple[Path, str], tmp_path: Path) -> None:
    directory, url = published
    (directory / "kubectl").write_bytes(b"program")
    (directory / "kubectl.sha256").write_text(hashlib.sha256(b"program").hexdigest())
    releases.fetch(Release(f"{url}/kubectl", f"{url}/kubectl.sha256"), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"program"


def test_another_checksum_is_refused(published: tuple[Path, str], tmp_path: Path) -> None:
    directory, url = published
    (directory / "kubectl").write_bytes(b"something else")
    (directory / "kubectl.sha256").write_text(hashlib.sha256(b"program").hexdigest())
    with pytest.raises(DownloadFailed, match="SHA-256"):
        releases.fetch(Release(f"{url}/kubectl", f"{url}/kubectl.sha256"), tmp_path / "got")


def test_a_program_is_taken_out_of_its_archive(published: tuple[Path, str], tmp_path: Path) -> None:
    directory, url = published
    packed = an_archive({"etcd-v3/etcd": b"program", "etcd-v3/README": b"text"})
    (directory / "etcd.tar.gz").write_bytes(packed)
    (directory / "SHA256SUMS").write_text(
        f"{'0' * 64}  other.tar.gz\n{hashlib.sha256(packed).hexdigest()}  etcd.tar.gz\n"
    )
    releases.fetch(Release(f"{url}/etcd.tar.gz", f"{url}/SHA256SUMS", "etcd-v3/etcd"), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"program"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["got"]


@pytest.mark.parametrize("missing", ["kubectl", "kubectl.sha256"])
def test_what_is_not_there_is_said(published: tuple[Path, str], tmp_path: Path, missing: str) -> None:
    directory, url = published
    for name in {"kubectl", "kubectl.sha256"} - {missing}:
        (directory / name).write_text("0" * 64)
    with pytest.raises(DownloadFailed, match="404"):
        releases.fetch(Release(f"{url}/kubectl", f"{url}/kubectl.sha256"), tmp_path / "got")


def test_a_checksum_file_is_read_in_all_its_forms() -> None:
    digest = "a" * 64
    assert checksum(f"{digest}\n", "kubectl") == digest
    assert checksum(f"{digest}  helm.tar.gz\n", "helm.tar.gz") == digest
    assert checksum(f"{'b' * 64} *other\n{digest} *helm.tar.gz\n", "helm.tar.gz") == digest
    with pytest.raises(KeyError):
        checksum(f"{digest}  other\n{digest}  another\n", "helm.tar.gz")


@pytest.mark.parametrize("program", [binaries.PROGRAMS[name] for name in binaries.CLUSTER], ids=lambda p: p.name)
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_every_program_has_a_release_of_its_version(program: binaries.Program, arch: str) -> None:
    source = releases.release(program.name, program.version, arch=arch)
    assert source is not None
    assert source.url.startswith("https://")
    assert source.checksums.startswith("https://")
    assert program.version.removeprefix("v") in source.url
    assert arch in source.url


def test_what_nobody_publishes_is_built_from_source() -> None:
    unpublished = [n for n, p in binaries.PROGRAMS.items() if releases.release(n, p.version, arch="amd64") is None]
    assert unpublished == ["karpenter"]


def test_a_host_that_does_not_answer_is_not_reachable() -> None:
    assert releases.reachable("release.invalid") is False  # RFC 6761: this name never exists


def an_archive(members: dict[str, bytes]) -> bytes:
    """A .tar.gz of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()
