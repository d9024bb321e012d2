"""How adapters come to the server: an init container each fetches its image with our own program."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from kaito_operator.api.spec import Adapter
from kaito_operator.plan import Manifest
from kaito_operator.workspace import pods
from kaito_operator.workspace.installation import Installation

ADAPTERS = "/mnt/adapter"
"""Where the server looks for them, as KAITO's does."""
FETCHERS = "adapter-"
"""The init containers that fetch them: this and the adapter's place in the list."""
SECRETS = "/mnt/pull"
DOCKER_CONFIG = ".dockerconfigjson"


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One adapter: from an image, or from a volume that a tuning has written."""

    name: str
    image: str = ""
    volume: Manifest | None = None
    strength: str = ""
    """"" serves it by its name; a number mixes it in."""
    pull_secrets: tuple[str, ...] = ()


def of_spec(adapters: Iterable[Adapter]) -> tuple[ServedAdapter, ...]:
    """Those that the user lists."""
    return tuple(
        ServedAdapter(
            name=each.source.name or "",
            image=each.source.image or "",
            strength=each.strength,
            pull_secrets=each.source.image_pull_secrets,
        )
        for each in adapters
    )


def arguments(adapters: Iterable[ServedAdapter]) -> list[str]:
    """What the server is told of them."""
    return [f"--adapter_strength={each.name}={each.strength}" for each in adapters if each.strength]


def fetching(adapters: Iterable[ServedAdapter], *, image: str, installation: Installation) -> list[dict[str, Any]]:
    """The init containers."""
    return [
        fetch(
            f"{FETCHERS}{index}",
            each.image,
            to=f"{ADAPTERS}/{each.name}",
            mount={"name": "adapters", "mountPath": ADAPTERS},
            pull_secrets=each.pull_secrets,
            runtime_image=image,
            installation=installation,
        )
        for index, each in enumerate(adapters)
        if each.image
    ]


def fetch(
    name: str,
    image: str,
    *,
    to: str,
    mount: dict[str, Any],
    pull_secrets: Sequence[str],
    runtime_image: str,
    installation: Installation,
) -> dict[str, Any]:
    """A container that unpacks the ``/data`` of an image into a directory; the pull Secrets are mounted there alone."""
    return {
        "name": name,
        "image": runtime_image,
        "command": ["python", "-m", "tuning_runner.fetch"],
        "args": [
            f"--image={image}",
            f"--to={to}",
            *(f"--auth={SECRETS}/{secret}/{DOCKER_CONFIG}" for secret in pull_secrets),
            *plain_http(installation),
        ],
        "env": pods.environment(),
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            mount,
            *({"name": _volume(s), "mountPath": f"{SECRETS}/{s}", "readOnly": True} for s in pull_secrets),
            pods.scratch_mount(),
        ],
    }


def plain_http(installation: Installation) -> list[str]:
    """Which registries our programs may speak to without TLS."""
    return [f"--plain_http={host}" for host in installation.plain_http_registries]


def volumes(adapters: Sequence[ServedAdapter]) -> list[dict[str, Any]]:
    """What the init containers and the server need."""
    if not adapters:
        return []
    secrets = [secret for each in adapters for secret in each.pull_secrets]
    given = [{"name": f"adapter-{i}", **each.volume} for i, each in enumerate(adapters) if each.volume is not None]
    return [{"name": "adapters", "emptyDir": {}}, *given, *secret_volumes(secrets)]


def secret_volumes(secrets: Iterable[str]) -> list[dict[str, Any]]:
    """Each Secret once, its docker configuration alone."""
    return [{"name": _volume(secret), "secret": docker_config(secret)} for secret in dict.fromkeys(secrets)]


def docker_config(secret: str) -> dict[str, Any]:
    """A Secret as a volume has it, without whatever else is in it."""
    return {"secretName": secret, "items": [{"key": DOCKER_CONFIG, "path": DOCKER_CONFIG}]}


def mounts(adapters: Sequence[ServedAdapter]) -> list[dict[str, Any]]:
    """Where the server finds them: read-only."""
    if not adapters:
        return []
    given = [
        {"name": f"adapter-{i}", "mountPath": f"{ADAPTERS}/{each.name}", "subPath": "adapter", "readOnly": True}
        for i, each in enumerate(adapters)
        if each.volume is not None
    ]
    return [{"name": "adapters", "mountPath": ADAPTERS, "readOnly": not given}, *given]


def _volume(secret: str) -> str:
    """A Secret's name may have dots and 253 characters, a volume's may not: then a hash stands for it."""
    plain = len(secret) < 58 and "." not in secret
    return f"pull-{secret if plain else sha256(secret.encode()).hexdigest()[:16]}"
