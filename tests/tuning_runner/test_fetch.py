"""Images of others are brought, laid layer over layer, and never trusted."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from presets.tuning_steps import ExitCode
from tests.support.faulty_http import Fault, Site, serve
from tests.support.told import check_told
from tuning_runner.address_guard import Guard
from tuning_runner.fetch import STAGE, fetch
from tuning_runner.image_reference import BadReference, ImageReference, parse_reference
from tuning_runner.patience import Patience
from tuning_runner.registry_auth import BadAuthFile, Credentials, parse_challenges, parse_credentials
from tuning_runner.transfer_ending import StepFailed

QUICK = Patience(pauses=(0.01, 0.01, 0.01))
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def tar(*members: tuple[str, bytes | tarfile.TarInfo]) -> bytes:
    """A layer of files (name, content), directories (name/) and whatever else a TarInfo says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as layer:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
            layer.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image(*layers: bytes, kind: str = f"{OCI}.layer.v1.tar", media: str = f"{OCI}.manifest.v1+json") -> Site:
    """A registry with one image, by tag ``v1``."""
    listed = [{"mediaType": kind, "digest": digest(data), "size": len(data)} for data in layers]
    manifest = {"schemaVersion": 2, "mediaType": media, "config": {}, "layers": listed}
    files = {f"/v2/a/b/blobs/{digest(data)}": data for data in layers}
    return Site(files={**files, "/v2/a/b/manifests/v1": json.dumps(manifest).encode()})


def bring(site: Site, to: Path, *, max_bytes: int = 50_000_000) -> Any:
    host = f"127.0.0.1:{site.port}"
    guard = Guard(plain_http=frozenset({host}))
    reference = parse_reference(f"{host}/a/b:v1")
    return fetch(reference, to=to, auth=[], guard=guard, max_bytes=max_bytes, patience=QUICK)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


BUSYBOX_LIKE = tar(
    ("bin/sh", b"#!"), ("etc/passwd", special(tarfile.SYMTYPE, "/etc/shadow")), ("dev/null", special(tarfile.CHRTYPE))
)


@pytest.mark.parametrize(
    ("compress", "kind", "media"),
    [
        (bytes, f"{OCI}.layer.v1.tar", f"{OCI}.manifest.v1+json"),
        (gzip.compress, f"{OCI}.layer.v1.tar+gzip", f"{OCI}.manifest.v1+json"),
        (gzip.compress, f"{DOCKER}.image.rootfs.diff.tar.gzip", f"{DOCKER}.distribution.manifest.v2+json"),
    ],
)
def test_an_image_as_kaito_builds_it_is_read(
    compress: Callable[[bytes], bytes], kind: str, media: str, tmp_path: Path
) -> None:
    own = tar(("data/adapter_config.json", b"{}"), ("data/adapter_model.safetensors", b"weights"))
    with serve(image(compress(BUSYBOX_LIKE), compress(own), kind=kind, media=media)) as site:
        assert bring(site, tmp_path)["files"] == 2
    assert tree(tmp_path) == {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


def test_zstd_layers_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, of the tuning extra, has the only zstd decoder here")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(tar(("data/x.csv", b"1\n")))
    with serve(image(sink.getvalue().to_pybytes(), kind=f"{OCI}.layer.v1.tar+zstd")) as site:
        bring(site, tmp_path)
    assert tree(tmp_path) == {"x.csv": b"1\n"}


def test_upper_layers_change_and_take_away(tmp_path: Path) -> None:
    lower = tar(("./data/a", b"1"), ("./data/b", b"1"), ("./data/old/x", b"1"), ("./data/file", b"1"))
    upper = tar(
        ("data/a", b"2"),
        ("data/.wh.b", b""),
        ("data/old/y", b"2"),
        ("data/old/.wh..wh..opq", b""),
        ("data/file/z", b"2"),
    )
    with serve(image(lower, upper)) as site:
        bring(site, tmp_path)
    assert tree(tmp_path) == {"a": b"2", "old/y": b"2", "file/z": b"2"}


def test_of_an_index_the_linux_amd64_image_is_taken(tmp_path: Path) -> None:
    site = image(tar(("data/x", b"right")))
    manifest = site.files["/v2/a/b/manifests/v1"]
    entries = [
        {"digest": "sha256:" + "1" * 64, "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": digest(manifest), "platform": {"os": "linux", "architecture": "amd64"}},
    ]
    site.files[f"/v2/a/b/manifests/{digest(manifest)}"] = manifest
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": entries}
    site.files["/v2/a/b/manifests/v1"] = json.dumps(index).encode()
    with serve(site):
        bring(site, tmp_path)
    assert tree(tmp_path) == {"x": b"right"}


def test_a_layer_that_broke_off_is_gone_on_with(tmp_path: Path) -> None:
    site = image(tar(("data/x", bytes(500_000))))
    site.faults = [Fault(path="blobs", cut=100_000), Fault(path="blobs", status=503), Fault(path="blobs", before=True)]
    with serve(site):
        bring(site, tmp_path)
    assert tree(tmp_path) == {"x": bytes(500_000)}


def manifest_site(body: object) -> Site:
    return Site(files={"/v2/a/b/manifests/v1": body if isinstance(body, bytes) else json.dumps(body).encode()})


def spoilt() -> Site:
    site = image(tar(("data/x", b"right")))
    return Site(files={path: (data[::-1] if "blobs" in path else data) for path, data in site.files.items()})


GOOD = ("data/x", b"1")
REFUSED: dict[str, tuple[Site, ExitCode, str]] = {
    "climbs": (image(tar(GOOD, ("data/../../evil", b"1"))), ExitCode.DATA_INVALID, "climbs"),
    "climbs elsewhere": (image(tar(GOOD, ("../evil", b"1"))), ExitCode.DATA_INVALID, "climbs"),
    "symlink": (image(tar(GOOD, ("data/l", special(tarfile.SYMTYPE, "/etc")))), ExitCode.DATA_INVALID, "link"),
    "symlink then file": (
        image(tar(("data/l", special(tarfile.SYMTYPE, "/tmp")), ("data/l/evil", b"1"))),
        ExitCode.DATA_INVALID,
        "link",
    ),
    "hard link": (image(tar(GOOD, ("data/l", special(tarfile.LNKTYPE, "etc/passwd")))), ExitCode.DATA_INVALID, "link"),
    "device": (image(tar(GOOD, ("data/d", special(tarfile.CHRTYPE)))), ExitCode.DATA_INVALID, "device"),
    "fifo": (image(tar(GOOD, ("data/f", special(tarfile.FIFOTYPE)))), ExitCode.DATA_INVALID, "device"),
    "long name": (image(tar(GOOD, (f"data/{'a' * 256}", b"1"))), ExitCode.DATA_INVALID, "longer than"),
    "no data": (image(BUSYBOX_LIKE), ExitCode.DATA_INVALID, "no files in /data"),
    "bomb": (image(gzip.compress(tar(("data/x", bytes(60_000_000))))), ExitCode.DATA_INVALID, "unpacks to more"),
    "too large": (image(bytes(50_000_001)), ExitCode.DOWNLOAD_REFUSED, "larger than"),
    "no tar": (image(b"not a tar" * 100), ExitCode.DATA_INVALID, "no whole tar"),
    "half a gzip": (image(gzip.compress(tar(GOOD))[:40]), ExitCode.DATA_INVALID, "no whole tar"),
    "unknown layer": (image(tar(GOOD), kind="application/x.tar+brotli"), ExitCode.DATA_INVALID, "cannot be unpacked"),
    "other content": (spoilt(), ExitCode.DOWNLOAD_FAILED, "other content"),
    "no JSON": (manifest_site(b"<html>"), ExitCode.DOWNLOAD_FAILED, "no manifest"),
    "a list": (manifest_site([]), ExitCode.DOWNLOAD_FAILED, "no manifest"),
    "no layers": (manifest_site({"layers": []}), ExitCode.DATA_INVALID, "no layers"),
    "old manifest": (manifest_site({"schemaVersion": 1, "fsLayers": []}), ExitCode.DATA_INVALID, "no layers"),
    "no digest": (manifest_site({"layers": [{"size": 1}]}), ExitCode.DATA_INVALID, "without digest"),
    "digest climbs": (
        manifest_site({"layers": [{"size": 1, "digest": "sha256:../../x"}]}),
        ExitCode.DATA_INVALID,
        "without digest",
    ),
    "negative size": (
        manifest_site({"layers": [{"size": -1, "digest": "sha256:" + "0" * 64}]}),
        ExitCode.DATA_INVALID,
        "without digest",
    ),
    "other platform": (manifest_site({"manifests": [{"platform": None}]}), ExitCode.DATA_INVALID, "linux/amd64"),
    "layer missing": (
        manifest_site({"layers": [{"size": 1, "digest": "sha256:" + "0" * 64}]}),
        ExitCode.DOWNLOAD_REFUSED,
        "404",
    ),
    "no image": (Site(), ExitCode.DOWNLOAD_REFUSED, r"reading tag \S+ of \S+: the registry answers 404"),
    "403": (Site(faults=[Fault(status=403)]), ExitCode.DOWNLOAD_REFUSED, "may read"),
    "500 for ever": (Site(faults=[Fault(status=500)] * 9), ExitCode.DOWNLOAD_FAILED, "4 times"),
}


@pytest.mark.badinput
@pytest.mark.security
@pytest.mark.parametrize("name", REFUSED)
def test_what_an_image_must_not_have_is_refused_and_nothing_arrives(
    name: str, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    site, code, words = REFUSED[name]
    target = tmp_path / "deep" / "er"
    target.mkdir(parents=True)
    with serve(site), pytest.raises(StepFailed, match=words) as failure:
        bring(site, target)
    count_cases("bad input of a tuning, as the status tells it", 1)
    assert failure.value.code == code
    check_told("download", failure.value)
    assert [path.name for path in tmp_path.rglob("*") if STAGE not in path.parts] == ["deep", "er"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", ImageReference("docker.io", "library/busybox", tag="latest")),
        ("team/house:v1", ImageReference("docker.io", "team/house", tag="v1")),
        ("localhost/x", ImageReference("localhost", "x", tag="latest")),
        ("r.example:5000/a/b:T-1", ImageReference("r.example:5000", "a/b", tag="T-1")),
        ("r.example/a@sha256:" + "0" * 64, ImageReference("r.example", "a", digest="sha256:" + "0" * 64)),
    ],
)
def test_references_are_read_as_docker_reads_them(text: str, expected: ImageReference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A/b:c",
        "r.example/A:v1",
        "r.example/a:v 1",
        "r.example/../a",
        "https://r.example/a:v1",
        "a:",
        "a@sha256:12",
        "a;b",
        "$(x)/y",
    ],
)
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(BadReference, match="names no image: write"):
        parse_reference(text)


def test_credentials_of_all_kinds_are_found() -> None:
    auths = {
        "r.example": {"auth": "dTpw"},
        "https://r.example/team": {"username": "t", "password": "q"},
        "id.example": {"auth": "MDAwOg==", "identitytoken": "refresh"},
        "https://index.docker.io/v1/": {"auth": "aDpk"},
    }
    text = json.dumps({"auths": auths})

    def found(image: str) -> Credentials | None:
        return parse_credentials(text, parse_reference(image))

    assert found("r.example/other/x:1") == Credentials(user="u", password="p")
    assert found("r.example/team/x:1") == Credentials(user="t", password="q")
    assert found("id.example/x:1") == Credentials(user="000", identity_token="refresh")
    assert found("busybox:1") == Credentials(user="h", password="d")
    assert found("r.example.evil/x:1") is None
    assert "q" not in repr(found("r.example/team/x:1")).replace("password", "")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": []}', '{"auths": {"r.example": {"auth": "***"}}}'])
def test_a_secret_that_is_no_dockerconfigjson_says_so(text: str) -> None:
    with pytest.raises(BadAuthFile, match="secret"):
        parse_credentials(text, parse_reference("r.example/x:1"))


def test_challenges_are_read_by_the_grammar() -> None:
    header = 'Bearer realm="https://a.example/t",service="s, x",scope="repository:a/b:pull,push", Basic realm="r"'
    bearer, basic = parse_challenges(header)
    assert bearer.scheme == "bearer"
    assert bearer.parameters == {"realm": "https://a.example/t", "service": "s, x", "scope": "repository:a/b:pull,push"}
    assert (basic.scheme, basic.parameters) == ("basic", {"realm": "r"})
