"""The only writer to Kubernetes: carries out one plan, in the one order that is safe to cut anywhere.

Finalizer on → apply → patch → evict → cloud → delete → status → events → nodes released → finalizer off. Every answer
goes into the mirror: the next pass sees our own writes. Before what costs money or cannot be undone there is a second
look, live.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import Protocol

from kaito_operator.api.kinds import BY_NAME
from kaito_operator.clock import Clock
from kaito_operator.eviction import evict
from kaito_operator.finalizers import bears_ours, mark, release, unmark
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Conflict, Invalid, KubeError, NotFound
from kaito_operator.kube.events import as_manifest
from kaito_operator.mirror import Mirror
from kaito_operator.plan import (
    Apply,
    CloudStep,
    CreateInCloud,
    Delete,
    DeleteInCloud,
    Event,
    Finalizer,
    LookInCloud,
    Patch,
    Plan,
    Ref,
    Refusal,
    Report,
)
from kaito_operator.second_look import Stale, forget, live_subject, look, must_be_absent, must_hold

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Applies and deletions of one plan that are under way together."""


class CloudDoor(Protocol):
    """What a provider must offer to have cloud steps carried out. Each method looks at the live cloud first.

    Nothing is decided on what could not be seen: a look that fails is remembered as a refusal, or a no.
    """

    async def create(self, step: CreateInCloud) -> None:
        """Asks for it once, conditionally; a refusal is remembered for the next plan, not raised."""

    async def delete(self, step: DeleteInCloud) -> None:
        """Asks for the deletion of what bears all ownership tags; absence is remembered."""

    async def look(self, step: LookInCloud) -> None:
        """Asks what is there under the name; what is found, or that nothing is, is remembered."""

    async def gone(self, name: str) -> bool:
        """Whether the cloud answers that there is no such thing."""

    async def there(self, name: str) -> bool:
        """Whether the cloud shows it, with the machine that it had and nothing under way that takes that away."""


async def carry_out(todo: Plan, *, kube: Kube, mirror: Mirror, cloud: CloudDoor | None, clock: Clock) -> None:
    """Writes ``todo``. Raises Stale, or the errors of ``kube.errors``; what was written until then stays written."""
    await _finalizer_on(todo, kube=kube, mirror=mirror)
    await _together(_apply(step, kube=kube, mirror=mirror) for step in todo.apply)
    await _together(_patch(step, kube=kube, mirror=mirror) for step in todo.patch)
    await _together(evict(pod, kube=kube) for pod in todo.evict)
    for step in todo.cloud:
        kube.fence()  # the cloud does not ask whether we lead
        await in_cloud(step, cloud)
    for name in todo.there_in_cloud:
        if cloud is None or not await cloud.there(name):
            raise Stale(f"{name} is not in the cloud as it was")
    await _together(_delete(step, kube=kube, mirror=mirror) for step in todo.delete)
    for report in todo.report:
        await _report(report, kube=kube, mirror=mirror)
    for event in todo.events:
        await _record(event, kube=kube, clock=clock)
    if todo.release or todo.finalizer is Finalizer.DROP:
        await _nothing_is_left(todo, kube=kube, mirror=mirror, cloud=cloud)
    await _together(release(step, kube=kube, mirror=mirror) for step in todo.release)
    if todo.finalizer is Finalizer.DROP:
        await unmark(await live_subject(todo, kube=kube, mirror=mirror), kube=kube, mirror=mirror)


def _needs_a_second_look(todo: Plan) -> bool:
    return bool(todo.cloud or any(a.buys for a in todo.apply) or any(d.gives_up for d in todo.delete))


async def _finalizer_on(todo: Plan, *, kube: Kube, mirror: Mirror) -> None:
    """Puts our finalizer on where asked; otherwise looks at the live parent if the rest of the plan needs that."""
    if todo.finalizer is not Finalizer.ADD and not _needs_a_second_look(todo):
        return
    live = await (mark if todo.finalizer is Finalizer.ADD else live_subject)(todo, kube=kube, mirror=mirror)
    buys = any(isinstance(step, CreateInCloud) for step in todo.cloud) or any(a.buys for a in todo.apply)
    if buys and not bears_ours(live):
        raise Stale(f"{todo.subject.ref} does not bear our finalizer")
    if buys and todo.holding is not None and todo.finalizer is not Finalizer.ADD:
        await must_hold(todo.holding, kube=kube, mirror=mirror)


async def _nothing_is_left(todo: Plan, *, kube: Kube, mirror: Mirror, cloud: CloudDoor | None) -> None:
    """What cloud and cluster say, live. Raises Stale if there is still something that a finalizer is to keep."""
    for name in todo.gone_in_cloud:
        if cloud is None or not await cloud.gone(name):
            raise Stale(f"{name} is still in the cloud")
    for selection in todo.gone_in_cluster:
        try:
            left = await kube.select(selection)
        except NotFound:
            continue  # the kind itself is not installed, so nothing of it is left
        for seen in left.items:
            mirror.put(seen)
        if left.items:
            raise Stale(f"{len(left.items)} {BY_NAME[selection.api_version, selection.kind].plural} are still there")


async def _apply(step: Apply, *, kube: Kube, mirror: Mirror) -> None:
    ref = Ref.of(step.manifest)
    if step.uid is None:
        await must_be_absent(ref, kube=kube, mirror=mirror)
    try:
        mirror.put(await kube.apply(step.manifest, uid=step.uid))
    except (Conflict, Invalid) as refused:
        if isinstance(refused, Invalid) and not _is_about_uid(refused):
            mirror.refuse(Refusal(step.manifest, refused.message))
        if step.uid is None or not _is_about_uid(refused):
            raise
        await look(ref, kube=kube, mirror=mirror)
        raise Stale(f"{ref} is not the object that was seen") from refused


async def _patch(step: Patch, *, kube: Kube, mirror: Mirror) -> None:
    seen = {"op": "test", "path": "/metadata/resourceVersion", "value": step.version}
    try:
        mirror.put(await kube.patch_json(step.ref, [seen, *step.operations]))
    except (NotFound, Conflict, Invalid) as changed:
        await look(step.ref, kube=kube, mirror=mirror)
        raise Stale(f"{step.ref} is not as it was seen: {changed.message}") from changed


async def _delete(step: Delete, *, kube: Kube, mirror: Mirror) -> None:
    try:
        if step.gives_up:
            live = await kube.get(step.ref)
            mirror.put(live)
            if live["metadata"]["uid"] != step.uid:
                raise Stale(f"{step.ref} is not the object that was seen")
            if "deletionTimestamp" in live["metadata"]:
                return
        left = await kube.delete(step.ref, uid=step.uid)
    except NotFound:
        left = None
    except Conflict as another:
        await look(step.ref, kube=kube, mirror=mirror)
        raise Stale(f"{step.ref} is not the object that was seen") from another
    if left is None:
        forget(step.ref, mirror)
    else:
        mirror.put(left)


async def in_cloud(step: CloudStep, cloud: CloudDoor | None) -> None:
    """One step of a plan, through the door."""
    if cloud is None:
        raise TypeError("a plan with cloud steps needs a cloud")
    if isinstance(step, CreateInCloud):
        await cloud.create(step)
    elif isinstance(step, DeleteInCloud):
        await cloud.delete(step)
    else:
        await cloud.look(step)


async def _report(report: Report, *, kube: Kube, mirror: Mirror) -> None:
    """Writes the status of the very version that was seen.

    The uid alone does not guard it: a custom resource's status endpoint puts the live metadata in place of what is sent
    before anything is compared (seen on 1.37), so a successor of the name would get the status of the object before it.
    """
    seen = mirror.get(BY_NAME[report.ref.api_version, report.ref.kind], report.ref.name, report.ref.namespace)
    if seen is None or seen["metadata"]["uid"] != report.uid:
        seen = await look(report.ref, kube=kube, mirror=mirror)
    if seen is None or seen.get("status") == report.status:
        return
    if seen["metadata"]["uid"] != report.uid:
        raise Stale(f"{report.ref} is not the object that was seen")
    version = seen["metadata"]["resourceVersion"]
    try:
        mirror.put(await kube.apply_status(report.ref, uid=report.uid, status=report.status, version=version))
    except NotFound:
        forget(report.ref, mirror)
    except Conflict as changed:
        await look(report.ref, kube=kube, mirror=mirror)
        raise Stale(f"{report.ref} changed under its status") from changed


async def _record(event: Event, *, kube: Kube, clock: Clock) -> None:
    """Tells it as well as can be: an event that is refused, as in a namespace that ends, stands in nobody's way."""
    try:
        await kube.create(as_manifest(event, component=kube.field_manager, now=clock()))
    except Conflict:
        return  # told already
    except KubeError as refused:
        log.warning("event %s about %s: %s", event.reason, event.about, refused)


def _is_about_uid(refused: Conflict | Invalid) -> bool:
    """409 "uid mismatch" if nothing has the name, 422 on metadata.uid if another object has (seen on 1.37)."""
    return "uid mismatch" in refused.message or "metadata.uid" in refused.message


async def _together(steps: Iterable[Awaitable[None]]) -> None:
    """All of them, a few at a time; all get their try, then the first error is raised."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(step: Awaitable[None]) -> None:
        async with room:
            await step

    done = await asyncio.gather(*(one(step) for step in steps), return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
