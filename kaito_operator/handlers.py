"""The only file that imports kopf: watch events go into the mirror and the queue, admission to the validator."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import kopf

from kaito_operator.admission import refusal
from kaito_operator.api.kinds import Kind
from kaito_operator.kube.client import Kube
from kaito_operator.plan import Manifest
from kaito_operator.reconciler import Controller, Watch

Saw = Callable[..., None]
"""Takes a manifest and, by keyword, whether it is gone."""


EXIT_SECONDS = 5.0
"""What kopf gets to come to its end."""


class WatchEnded(Exception):
    """kopf stopped without an error, which it should never do unasked."""


async def watch(controller: Controller[Any], kube: Kube, saw: Saw, *, spawned: Callable[[], None]) -> None:
    """Watches, and answers admission where that is asked for, until cancelled.

    Raises what kopf cannot mend (410, 403, a broken stream): then start clean.

    ``spawned`` is called when kopf has taken SIGTERM and SIGINT for itself, so that they can be taken back.
    """
    # Not kopf.operator: at its end that waits for, then cancels every younger task of the loop, ours among them.
    # And not with an identity of kopf's own making, for which the image would need a name for its user.
    tasks = await kopf.spawn_tasks(
        registry=_registry(controller, kube, saw),
        settings=_settings(controller),
        standalone=True,
        clusterwide=True,
        identity=cast(Any, controller.name),
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


def _registry(controller: Controller[Any], kube: Kube, saw: Saw) -> kopf.OperatorRegistry:
    """One handler a kind, and the login; nothing by which kopf would ever write."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login_with(kube))
    for each in controller.watches:
        group, _, version = each.kind.api_version.rpartition("/")
        kopf.on.event(group, version, each.kind.plural, id=each.kind.plural, registry=registry)(_bell(each, saw))
    if controller.door is not None and controller.mistakes is not None:
        group, _, version = controller.parent.api_version.rpartition("/")
        judges = kopf.on.validate(group, version, controller.parent.plural, id="validate", registry=registry)
        judges(_judge(controller.parent, controller.mistakes))
    return registry


def _judge(parent: Kind, mistakes: Callable[[Manifest], str]) -> Callable[..., Any]:
    """The answer to an AdmissionReview. 422 is what the API server itself says to a field that is wrong."""

    async def judge(body: kopf.Body, old: kopf.Body | None = None, **_: Any) -> None:
        kind = {"apiVersion": parent.api_version, "kind": parent.kind}
        before = {**kind, **old} if old is not None else None
        if told := refusal({**kind, **body}, before, mistakes=mistakes):
            raise kopf.AdmissionError(told, code=422)

    return judge


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


class _NoDifferences(kopf.DiffBaseStorage):
    """What an object was before, for handlers of changes. There are none, so nothing is copied to be compared."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None: ...


class _NoProgress(kopf.ProgressStorage):
    """How far handlers have come. Ours are done when they return."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None: ...

    def purge(self, **_: Any) -> None: ...

    def touch(self, **_: Any) -> None: ...

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def _settings(controller: Controller[Any]) -> kopf.OperatorSettings:
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
    # kopf would copy each object four times per event, a fifth of all that the process does.
    settings.persistence.diffbase_storage = _NoDifferences()
    settings.persistence.progress_storage = _NoProgress()
    if controller.door is not None:
        certificate, key = (controller.door.certificates / name for name in ("tls.crt", "tls.key"))
        settings.admission.server = kopf.WebhookServer(
            port=controller.door.port, certfile=str(certificate), pkeyfile=str(key)
        )
    for each in controller.watches:
        if each.selector:
            group, _, version = each.kind.api_version.rpartition("/")
            settings.watching.label_selectors[group, version, each.kind.plural] = each.selector
    return settings
