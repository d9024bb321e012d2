"""What an image in a registry is made of, read and written by the OCI distribution API."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from tuning_runner.patience import Interrupted
from tuning_runner.registry_session import RegistrySession
from tuning_runner.transfer_ending import StepFailed

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST)
MAX_MANIFEST = 4 << 20
"""Bytes; the distribution specification lets registries refuse more."""
CHUNK = 16 << 20
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Content(Protocol):
    """Bytes that can be read from any place, so that an upload can go on where it broke off."""

    @property
    def size(self) -> int:
        """How many."""

    @property
    def digest(self) -> str:
        """``sha256:…`` of all of them."""

    def read(self, start: int, length: int) -> bytes:
        """A part of them."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Content that is small enough to be held."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index, with the digest of the bytes it was read from."""

    digest: str
    media_type: str
    body: Mapping[str, Any]


def digest_of(data: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def get_manifest(session: RegistrySession, wanted: str) -> Manifest:
    """The manifest or index of a tag or digest. Raises StepFailed."""
    answer = session.ask("GET", f"manifests/{wanted}", headers={"accept": ", ".join(MANIFESTS)})
    if answer.status_code != 200:
        which = wanted if DIGEST.fullmatch(wanted) else f"tag {wanted}"
        raise session.refuse(answer, doing=f"reading {which} of")
    digest = digest_of(answer.content)
    if wanted.startswith("sha256:") and digest != wanted:
        raise StepFailed(session.failed, f"{session.image}: the registry gave a manifest of another digest")
    try:
        body = json.loads(answer.content) if len(answer.content) <= MAX_MANIFEST else None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise StepFailed(session.failed, f"{session.image}: the registry gave no manifest: is it a registry?")
    media_type = body.get("mediaType") or answer.headers.get("content-type", "").partition(";")[0]
    return Manifest(digest=digest, media_type=str(media_type), body=body)


def tagged_digest(session: RegistrySession, tag: str) -> str:
    """The digest that a tag points to; "" if there is no such tag."""
    answer = session.ask("HEAD", f"manifests/{tag}", headers={"accept": ", ".join(MANIFESTS)})
    if answer.status_code in (401, 403):
        raise session.refuse(answer, doing="reading")
    return answer.headers.get("docker-content-digest", "") if answer.status_code == 200 else ""


def get_blob(session: RegistrySession, digest: str, *, size: int, to: Path) -> None:
    """Writes a blob to a file, going on where an answer broke off, and checks size and digest. Raises StepFailed."""
    attempt, wrong = 0, False
    while True:
        have = to.stat().st_size if to.exists() else 0
        try:
            if have < size:
                _go_on(session, digest, size=size, to=to, have=have)
            if _file_digest(to) == digest and to.stat().st_size == size:
                return
            to.unlink()
            if wrong:
                raise StepFailed(session.failed, f"{session.image}: the registry's {digest[:19]}… has other content")
            wrong = True
        except (httpx.TransportError, Interrupted) as error:
            more = to.exists() and to.stat().st_size > have
            attempt = session.pause(0 if more else attempt, error)


def _go_on(session: RegistrySession, digest: str, *, size: int, to: Path, have: int) -> None:
    headers = {"range": f"bytes={have}-"} if have else {}
    answer = session.once("GET", f"blobs/{digest}", headers=headers, stream=True)
    try:
        if answer.status_code not in (200, 206):
            raise session.refuse(answer, doing="reading a layer of")
        with to.open("ab" if answer.status_code == 206 else "wb") as file:
            for piece in answer.iter_raw():
                file.write(piece)
                if file.tell() > size:
                    raise StepFailed(session.failed, f"{session.image}: a layer is larger than its manifest says")
    finally:
        answer.close()
    if to.stat().st_size < size:
        raise Interrupted("the answer ended early")


def push_blob(session: RegistrySession, content: Content, *, tell: Callable[[int], None] = lambda _: None) -> bool:
    """Uploads content in chunks unless the registry has it; whether it had to. Raises StepFailed."""
    answer = session.ask("HEAD", f"blobs/{content.digest}")
    if answer.status_code == 200:
        return False
    if answer.status_code in (401, 403):
        raise session.refuse(answer, doing="pushing to")
    attempt = 0
    while True:
        try:
            _upload(session, content, tell=tell)
            return True
        except Interrupted as error:
            attempt = session.pause(attempt, error)


def _upload(session: RegistrySession, content: Content, *, tell: Callable[[int], None]) -> None:
    """One upload from its beginning. Raises Interrupted if the registry has lost it."""
    begun = session.ask("POST", "blobs/uploads/")
    if begun.status_code != 202:
        raise session.refuse(begun, doing="pushing to")
    place, attempt, offset = _location(session, begun), 0, 0
    smallest = begun.headers.get("oci-chunk-min-length", "")
    chunk = max(CHUNK, int(smallest) if smallest.isdigit() else 0)
    while offset < content.size:
        data = content.read(offset, chunk)
        headers = {
            "content-type": "application/octet-stream",
            "content-range": f"{offset}-{offset + len(data) - 1}",
        }
        try:
            answer = session.once("PATCH", place, headers=headers, content=data)
        except (httpx.TransportError, Interrupted) as error:
            attempt = session.pause(attempt, error)
            place, offset = _where(session, place)
            continue
        if answer.status_code == 416:
            place, offset = _where(session, place)
            attempt = session.pause(attempt, Interrupted("the registry expects another part of the upload"))
            continue
        _check_upload(session, answer)
        place, offset, attempt = _location(session, answer), offset + len(data), 0
        tell(offset)
    _finish(session, place, content)


def _finish(session: RegistrySession, place: httpx.URL, content: Content) -> None:
    answer = session.ask("PUT", place.copy_merge_params({"digest": content.digest}))
    if answer.status_code == 404 and session.ask("HEAD", f"blobs/{content.digest}").status_code == 200:
        return  # it was taken, and only the answer was lost
    _check_upload(session, answer)


def _where(session: RegistrySession, place: httpx.URL) -> tuple[httpx.URL, int]:
    """Where to go on with an upload, and with which byte (distribution specification, resuming)."""
    answer = session.ask("GET", place)
    _check_upload(session, answer)
    # "0-0" is what the distribution registry also answers for nothing at all; one byte sent again is refused (416)
    # by no registry known, and a chunk is never one byte long.
    match = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("range", ""))
    last = int(match.group(1)) if match else 0
    return _location(session, answer), last + 1 if last else 0


def _check_upload(session: RegistrySession, answer: httpx.Response) -> None:
    """Raises Interrupted for an upload that the registry has lost or spoilt, StepFailed for one it does not want."""
    if answer.status_code == 404:
        raise Interrupted("the registry has lost the upload")
    if answer.status_code == 400 and b"DIGEST_INVALID" in answer.content:
        raise Interrupted("the registry received other bytes than were sent")
    if answer.status_code == 413:
        raise session.refuse(answer, doing="pushing to")
    if answer.status_code >= 300:
        raise session.refuse(answer, doing="pushing to")


def _location(session: RegistrySession, answer: httpx.Response) -> httpx.URL:
    text = answer.headers.get("location", "")
    if not text:
        return answer.request.url
    try:
        return session.base.join(text)
    except httpx.InvalidURL:
        raise StepFailed(session.failed, f"{session.image.registry} gives a Location that is no URL") from None


def put_manifest(session: RegistrySession, reference: str, data: bytes, *, media_type: str) -> str:
    """Stores a manifest under a tag; its digest. Raises StepFailed."""
    answer = session.ask("PUT", f"manifests/{reference}", headers={"content-type": media_type}, content=data)
    if answer.status_code not in (200, 201, 202):
        raise session.refuse(answer, doing="pushing to")
    stored = answer.headers.get("docker-content-digest", "") or digest_of(data)
    if stored != digest_of(data):
        raise StepFailed(session.failed, f"{session.image.registry} stored the manifest under another digest")
    return stored


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
