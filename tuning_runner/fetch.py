"""``python -m tuning_runner.fetch``: brings what an image has in ``/data`` to a directory, never running the image."""

import argparse
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presets.tuning_steps import ExitCode
from tuning_runner import registry
from tuning_runner.address_guard import Guard, parse_networks
from tuning_runner.image_reference import ImageReference, parse_reference
from tuning_runner.patience import Patience
from tuning_runner.registry import DIGEST, DOCKER_LIST, OCI_INDEX, Manifest
from tuning_runner.registry_auth import BadAuthFile, read_credentials
from tuning_runner.registry_session import RegistrySession
from tuning_runner.transfer_ending import StepFailed, run_step
from tuning_runner.unpack import BadLayer, Unpacking

STAGE = ".fetch"
"""The directory, within the target, where things are until all are there."""
TREE = "data"
PLATFORM = ("linux", "amd64")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob that a manifest names."""

    digest: str
    size: int
    media_type: str


def main(argv: Sequence[str] | None = None) -> int:
    """The step: 0, or the exit code that says why not."""
    return run_step(lambda: _step(argv), failed=ExitCode.DOWNLOAD_FAILED)


def _step(argv: Sequence[str] | None) -> Mapping[str, object]:
    parser = argparse.ArgumentParser(prog="tuning_runner.fetch", exit_on_error=False)
    parser.add_argument("--image", required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--auth", type=Path, action="append", default=[])
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--plain_http", action="append", default=[])
    parser.add_argument("--max_gib", type=float, default=100.0)
    try:
        given = parser.parse_args(argv)
        image = parse_reference(given.image)
        networks = parse_networks(given.allow)
    except (argparse.ArgumentError, ValueError) as error:
        raise StepFailed(ExitCode.CONFIG_INVALID, str(error)) from None
    guard = Guard(allowed=networks, private=True, plain_http=frozenset(given.plain_http))
    return fetch(image, to=given.to, auth=given.auth, guard=guard, max_bytes=int(given.max_gib * (1 << 30)))


def fetch(
    image: ImageReference,
    *,
    to: Path,
    auth: Sequence[Path],
    guard: Guard,
    max_bytes: int,
    patience: Patience | None = None,
) -> Mapping[str, object]:
    """Puts the content of the image's ``/data`` into ``to``, all of it or nothing. Raises StepFailed."""
    try:
        credentials = read_credentials(auth, image)
    except BadAuthFile as error:
        raise StepFailed(ExitCode.DOWNLOAD_REFUSED, str(error)) from None
    session = RegistrySession(
        image,
        guard=guard,
        credentials=credentials,
        failed=ExitCode.DOWNLOAD_FAILED,
        denied=ExitCode.DOWNLOAD_REFUSED,
        patience=patience,
    )
    try:
        manifest = resolve_platform(session)
        layers = layers_of(manifest, image)
        _check_size(layers, image, limit=max_bytes)
        files = _unpack(session, layers, to=to, limit=max_bytes)
    finally:
        session.close()
    return {"image": str(image), "digest": manifest.digest, "files": files}


def resolve_platform(session: RegistrySession) -> Manifest:
    """The image's manifest; of an index, the one for linux/amd64. Raises StepFailed."""
    found = registry.get_manifest(session, session.image.wanted)
    if found.media_type not in (OCI_INDEX, DOCKER_LIST) and "manifests" not in found.body:
        return found
    listed = found.body.get("manifests")
    for entry in listed if isinstance(listed, list) else []:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        here = (platform.get("os"), platform.get("architecture")) if isinstance(platform, dict) else ()
        if here == PLATFORM and DIGEST.fullmatch(str(entry.get("digest"))):
            return registry.get_manifest(session, entry["digest"])
    said = f"{session.image} has no image for {'/'.join(PLATFORM)}: push one"
    raise StepFailed(ExitCode.DATA_INVALID, said)


def layers_of(manifest: Manifest, image: ImageReference) -> list[Layer]:
    """The layers, lowest first. Raises StepFailed for a manifest that is none."""
    listed = manifest.body.get("layers")
    if not isinstance(listed, list) or not listed:
        raise StepFailed(ExitCode.DATA_INVALID, f"{image} has no layers: push an image with files in /data")
    return [_layer(entry, image) for entry in listed]


def _layer(entry: Any, image: ImageReference) -> Layer:
    digest, size = (entry.get("digest"), entry.get("size")) if isinstance(entry, dict) else (None, None)
    # bool is an int to Python, but no size.
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest) or type(size) is not int or size < 0:
        raise StepFailed(ExitCode.DATA_INVALID, f"{image} has a layer without digest or size: push it again")
    return Layer(digest, size=size, media_type=str(entry.get("mediaType", "")))


def _check_size(layers: Sequence[Layer], image: ImageReference, *, limit: int) -> None:
    if sum(layer.size for layer in layers) > limit:
        said = f"{image} is larger than {limit / (1 << 30):g} GiB: use a smaller one, or raise the limit"
        raise StepFailed(ExitCode.DOWNLOAD_REFUSED, said)


def _unpack(session: RegistrySession, layers: Sequence[Layer], *, to: Path, limit: int) -> int:
    """How many files came to ``to``."""
    stage = to / STAGE
    shutil.rmtree(stage / TREE, ignore_errors=True)
    (stage / TREE).mkdir(parents=True)
    tree = Unpacking(stage / TREE, limit=limit)
    for number, layer in enumerate(layers, start=1):
        log.info("layer %d of %d, %.1f MB", number, len(layers), layer.size / 1e6)
        blob = stage / layer.digest.removeprefix("sha256:")
        registry.get_blob(session, layer.digest, size=layer.size, to=blob)
        try:
            tree.add(blob, media_type=layer.media_type)
        except BadLayer as error:
            raise StepFailed(ExitCode.DATA_INVALID, f"{session.image}: {error}") from None
        blob.unlink()
    files = sum(path.is_file() for path in tree.tree.rglob("*"))
    if not files:
        raise StepFailed(ExitCode.DATA_INVALID, f"{session.image} has no files in /data: build it with some there")
    for entry in sorted(tree.tree.iterdir()):
        _move(entry, to / entry.name)
    shutil.rmtree(stage)
    return files


def _move(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    source.replace(target)


if __name__ == "__main__":
    sys.exit(main())
