"""An adapter as an OCI artifact that is an image too: one layer with /data, the same bytes for the same files."""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tuning_runner.registry import OCI_MANIFEST, digest_of

ARTIFACT_TYPE = "application/vnd.kaito.adapter.v1"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
"""Uncompressed: weights hardly shrink, and the digest then depends on no version of zlib."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
CARD_ROWS = {
    "revision": "revision",
    "model": "its config.json",
    "method": "method",
    "steps": "steps",
    "loss": "loss",
    "eval_loss": "loss on what was held back",
}
"""A fact of the marker → what the card calls it."""
BLOCK = 512
PIECE = 1 << 20


@dataclass(frozen=True)
class TarLayer:
    """A tar of ``/data`` read from files where they lie, so that no second copy needs room on a disk."""

    files: Mapping[str, Path | bytes]

    @cached_property
    def _segments(self) -> list[tuple[int, bytes | Path]]:
        """Lengths and sources, one after another: header, content, padding."""
        segments: list[tuple[int, bytes | Path]] = [(BLOCK, _header("data", size=0, directory=True))]
        for name, source in sorted(self.files.items()):
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            header = _header(f"data/{name}", size=size)
            segments += [(len(header), header), (size, source), (-size % BLOCK, bytes(-size % BLOCK))]
        return [*segments, (2 * BLOCK, bytes(2 * BLOCK))]

    @cached_property
    def size(self) -> int:
        """Bytes of the whole tar."""
        return sum(length for length, _ in self._segments)

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of the tar."""
        found = hashlib.sha256()
        for start in range(0, self.size, PIECE):
            found.update(self.read(start, PIECE))
        return f"sha256:{found.hexdigest()}"

    def read(self, start: int, length: int) -> bytes:
        """A part of the tar."""
        return b"".join(self._parts(start, min(start + length, self.size)))

    def _parts(self, start: int, end: int) -> Iterator[bytes]:
        begin = 0
        for length, source in self._segments:
            low, high = max(start, begin), min(end, begin + length)
            if low < high:
                yield _part(source, low - begin, high - low)
            begin += length


def _part(source: bytes | Path, start: int, length: int) -> bytes:
    if isinstance(source, bytes):
        return source[start : start + length]
    with source.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _header(name: str, *, size: int, directory: bool = False) -> bytes:
    """A tar header that says nothing of when, where and by whom."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o755 if directory else 0o644
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return info.tobuf(tarfile.GNU_FORMAT)


def image_config(layer: TarLayer) -> bytes:
    """The configuration that makes the artifact an image for those who only know images."""
    return _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        }
    )


def manifest(layer: TarLayer, config: bytes, *, annotations: Mapping[str, str]) -> bytes:
    """The manifest, without a time of creation, so that the same files always have the same digest."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size}],
            "annotations": dict(sorted(annotations.items())),
        }
    )


def annotations(facts: Mapping[str, Any]) -> dict[str, str]:
    """What the marker of the training says, for whoever lists a registry."""
    told = {
        "org.opencontainers.image.title": f"adapter of {facts.get('base_model', 'an unknown model')}",
        "org.opencontainers.image.description": "LoRA adapter in /data, tuned by kaito",
        "org.opencontainers.image.base.name": facts.get("base_model", ""),
        # KAITO's pusher names the model so (facts/presets.md section 2.4).
        "sh.kaito.model.name": facts.get("base_model", ""),
        "sh.kaito.tuning.revision": facts.get("revision", ""),
        "sh.kaito.tuning.method": facts.get("method", ""),
        "sh.kaito.tuning.steps": facts.get("steps", ""),
        "sh.kaito.tuning.loss": facts.get("loss", ""),
    }
    return {key: str(value) for key, value in told.items() if value not in ("", None)}


def model_card(facts: Mapping[str, Any]) -> bytes:
    """A README.md as model hubs expect it: metadata first, then what a reader wants to know."""
    base = str(facts.get("base_model") or "unknown")
    rows = [("base model", base)]
    rows += [(name, str(facts[key])) for key, name in CARD_ROWS.items() if facts.get(key) is not None]
    data = [d for d in facts.get("data") or [] if isinstance(d, dict)]
    lines = [
        "---",
        f"base_model: {json.dumps(base)}",
        "library_name: peft",
        "tags: [lora, kaito]",
        "---",
        "",
        f"# Adapter of {base}",
        "",
        "Tuned by kaito. Load it with peft, or name this image in `inference.adapters` of a Workspace.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows),
        "",
        "## Training data",
        "",
        *(f"- `{d.get('name', '?')}` sha256 `{d.get('sha256', '?')}`" for d in data),
        *([] if data else ["Not recorded."]),
        "",
    ]
    return "\n".join(lines).encode()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
