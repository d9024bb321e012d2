"""The only file that imports kopf: watch events go into the mirror and the queue, and nothing else happens here."""

from collections.abc import Callable
from typing import Any

import kopf

from kaito_operator.kube.client import Kube
from kaito_operator.plan import Manifest
from kaito_operator.reconciler import Watch

Saw = Callable[..., None]
"""Takes a manifest and, by keyword, whether it is gone."""


async def watch(watches: tuple[Watch, ...], kube: Kube, saw: Saw) -> None:
    """Watches until SIGTERM or SIGINT, whose handlers kopf takes over, or until cancelled.

    kopf raises what it cannot mend (410, 403, a broken stream): then the process ends and starts clean.
    """
    registry = kopf.OperatorRegistry()
    settings = _settings(watches)
    kopf.on.login(registry=registry)(_login_with(kube))
    for each in watches:
        group, _, version = each.kind.api_version.rpartition("/")
        ring = _bell(each, saw)
        kopf.on.event(group, version, each.kind.plural, id=each.kind.plural, registry=registry)(ring)
    await kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True)


def _bell(each: Watch, saw: Saw) -> Callable[..., Any]:
    async def ring(event: kopf.RawEvent, **_: Any) -> None:
        seen: Manifest = {"apiVersion": each.kind.api_version, "kind": each.kind.kind, **event["object"]}
        saw(seen, gone=event["type"] == "DELETED")

    return ring


def _login_with(kube: Kube) -> Callable[..., Any]:
    async def login(**_: Any) -> kopf.ConnectionInfo:
        connection = await kube.connection()
        return kopf.ConnectionInfo(
            server=connection.server,
            ca_path=connection.ca_path,
            insecure=connection.insecure,
            scheme="Bearer" if connection.token else None,
            token=connection.token,
            certificate_path=connection.certificate_path,
            private_key_path=connection.private_key_path,
            trust_env=False,
        )

    return login


def _settings(watches: tuple[Watch, ...]) -> kopf.OperatorSettings:
    """Nothing is written, nothing is scanned, and a dead connection is noticed within a minute or so."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.inactivity_timeout = 70
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = [1, 1, 2, 3, 5]  # 12 s, then end and start clean
    settings.process.ultimate_exiting_timeout = 25
    for each in watches:
        if each.selector:
            group, _, version = each.kind.api_version.rpartition("/")
            settings.watching.label_selectors[group, version, each.kind.plural] = each.selector
    return settings
