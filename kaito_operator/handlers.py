"""The only file that imports kopf: watch events go into the mirror and the queue, and nothing else happens here."""

import asyncio
from collections.abc import Callable
from typing import Any

import kopf

from kaito_operator.kube.client import Kube
from kaito_operator.plan import Manifest
from kaito_operator.reconciler import Watch

Saw = Callable[..., None]
"""Takes a manifest and, by keyword, whether it is gone."""


EXIT_SECONDS = 5.0
"""What kopf gets to come to its end."""


class WatchEnded(Exception):
    """kopf stopped without an error, which it should never do unasked."""


async def watch(watches: tuple[Watch, ...], kube: Kube, saw: Saw, *, spawned: Callable[[], None]) -> None:
    """Watches until cancelled. Raises what kopf cannot mend (410, 403, a broken stream): then start clean.

    ``spawned`` is called when kopf has taken SIGTERM and SIGINT for itself, so that they can be taken back.
    """
    # Not kopf.operator: at its end that waits for, then cancels every younger task of the loop, ours among them.
    tasks = await kopf.spawn_tasks(
        registry=_registry(watches, kube, saw), settings=_settings(watches), standalone=True, clusterwide=True
    )
    spawned()
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in ended:
            if not each.cancelled() and (error := each.exception()) is not None:
                raise error
        raise WatchEnded(f"kopf's {', '.join(task.get_name() for task in ended)} ended")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=EXIT_SECONDS)


def _registry(watches: tuple[Watch, ...], kube: Kube, saw: Saw) -> kopf.OperatorRegistry:
    """One handler a kind, and the login; nothing by which kopf would ever write."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login_with(kube))
    for each in watches:
        group, _, version = each.kind.api_version.rpartition("/")
        kopf.on.event(group, version, each.kind.plural, id=each.kind.plural, registry=registry)(_bell(each, saw))
    return registry


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
    settings.queueing.exit_timeout = 1  # a handler takes microseconds
    settings.process.ultimate_exiting_timeout = None  # it is not kopf's to kill the process
    settings.persistence.finalizer = "kaito.sh/never-written"
    for each in watches:
        if each.selector:
            group, _, version = each.kind.api_version.rpartition("/")
            settings.watching.label_selectors[group, version, each.kind.plural] = each.selector
    return settings
