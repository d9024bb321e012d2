"""``python -m tuning_runner.publish``: pushes a finished adapter to a registry, and says under which digest."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from presets.tuning_steps import ExitCode
from tuning_runner import adapter_image, registry
from tuning_runner.adapter_image import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, TarLayer
from tuning_runner.address_guard import Guard, parse_networks
from tuning_runner.download import file_digest
from tuning_runner.image_reference import BadReference, ImageReference, parse_reference
from tuning_runner.patience import Patience
from tuning_runner.registry import Bytes
from tuning_runner.registry_auth import BadAuthFile, read_credentials
from tuning_runner.registry_session import RegistrySession
from tuning_runner.transfer_ending import StepFailed, run_step

MARKER = "results.json"
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The step: 0, or the exit code that says why not."""
    return run_step(lambda: _step(argv), failed=ExitCode.PUSH_FAILED)


def _step(argv: Sequence[str] | None) -> Mapping[str, object]:
    parser = argparse.ArgumentParser(prog="tuning_runner.publish", exit_on_error=False)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--auth", type=Path, action="append", default=[])
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--plain_http", action="append", default=[])
    try:
        given = parser.parse_args(argv)
        image = parse_reference(given.image)
        networks = parse_networks(given.allow)
        if image.digest:
            raise BadReference(f"{given.image} names a digest: an output image needs a tag, REGISTRY/REPOSITORY:TAG")
    except (argparse.ArgumentError, ValueError) as error:
        raise StepFailed(ExitCode.CONFIG_INVALID, str(error)) from None
    guard = Guard(allowed=networks, private=True, plain_http=frozenset(given.plain_http))
    return publish(given.results, image=image, auth=given.auth, guard=guard)


def publish(
    results: Path, *, image: ImageReference, auth: Sequence[Path], guard: Guard, patience: Patience | None = None
) -> Mapping[str, object]:
    """Pushes the adapter of ``results``; what the registry has already is not sent again. Raises StepFailed."""
    facts = read_marker(results)
    layer = adapter_layer(results / "adapter", facts)
    try:
        credentials = read_credentials(auth, image)
    except BadAuthFile as error:
        raise StepFailed(ExitCode.PUSH_DENIED, str(error)) from None
    session = RegistrySession(
        image,
        guard=guard,
        credentials=credentials,
        failed=ExitCode.PUSH_FAILED,
        denied=ExitCode.PUSH_DENIED,
        patience=patience,
    )
    try:
        digest = _push(session, layer, facts)
    finally:
        session.close()
    return {"image": str(image), "digest": digest}


def _push(session: RegistrySession, layer: TarLayer, facts: Mapping[str, Any]) -> str:
    config = adapter_image.image_config(layer)
    manifest = adapter_image.manifest(layer, config, annotations=adapter_image.annotations(facts))
    digest, tag = registry.digest_of(manifest), session.image.tag
    if registry.tagged_digest(session, tag) == digest:
        log.info("%s is there already", session.image)
        return digest

    def tell(sent: int) -> None:
        log.info("pushed %.1f of %.1f MB", sent / 1e6, layer.size / 1e6)

    registry.push_blob(session, layer, tell=tell)
    registry.push_blob(session, Bytes(config))
    return registry.put_manifest(session, tag, manifest, media_type=registry.OCI_MANIFEST)


def read_marker(results: Path) -> Mapping[str, Any]:
    """What the trainer wrote when it had reached the last step. Raises StepFailed where it did not."""
    try:
        facts = json.loads((results / MARKER).read_text())
    except FileNotFoundError:
        said = f"{results} has no {MARKER}: the training has not ended; run it to its last step first"
        raise StepFailed(ExitCode.CONFIG_INVALID, said) from None
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise StepFailed(ExitCode.CONFIG_INVALID, f"{MARKER} in {results} is no JSON object: train again")
    return facts


def adapter_layer(adapter: Path, facts: Mapping[str, Any]) -> TarLayer:
    """The layer of an adapter's directory, its files compared with the marker. Raises StepFailed."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        path = adapter / name
        if not path.is_file():
            raise StepFailed(ExitCode.CONFIG_INVALID, f"{path} is missing: train again")
        expected = _expected(facts, name)
        if expected and file_digest(path) != expected:
            raise StepFailed(ExitCode.CONFIG_INVALID, f"{path} is not the file that was trained: train again")
    return TarLayer(
        {
            ADAPTER_CONFIG: adapter / ADAPTER_CONFIG,
            ADAPTER_WEIGHTS: adapter / ADAPTER_WEIGHTS,
            CARD: adapter_image.model_card(facts),
        }
    )


def _expected(facts: Mapping[str, Any], name: str) -> str:
    """The digest that the marker has for a file, under its name or ``adapter/`` and its name."""
    files = facts.get("files")
    if not isinstance(files, dict):
        return ""
    return str(files.get(name) or files.get(f"adapter/{name}") or "").removeprefix("sha256:")


if __name__ == "__main__":
    sys.exit(main())
