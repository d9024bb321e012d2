"""Finalizers go on and off by one patch, which holds only for the version of the object that was seen."""

from kaito_operator.api.kinds import BY_NAME
from kaito_operator.api.labels import TERMINATION_FINALIZER, WORKSPACE_FINALIZER
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Conflict, Invalid, NotFound
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Manifest, Plan, Ref, Release
from kaito_operator.second_look import Stale, forget, live_subject, look, must_be_the_planned

OURS = {
    "Workspace": WORKSPACE_FINALIZER,
    "Machine": TERMINATION_FINALIZER,
    "NodeClaim": TERMINATION_FINALIZER,
    "Node": TERMINATION_FINALIZER,
}


def bears_ours(manifest: Manifest) -> bool:
    """Whether our finalizer is on it."""
    return OURS[manifest["kind"]] in _finalizers(manifest)


async def mark(todo: Plan, *, kube: Kube, mirror: Mirror) -> Manifest:
    """The parent with our finalizer on. The write holds only for the version that was seen, so its answer is the
    second look as well. Raises Stale if somebody was there in between."""
    ref = todo.subject.ref
    seen = mirror.get(BY_NAME[ref.api_version, ref.kind], ref.name, ref.namespace)
    if seen is None:
        seen = await live_subject(todo, kube=kube, mirror=mirror)
    if bears_ours(seen):
        return await live_subject(todo, kube=kube, mirror=mirror)
    try:
        written = await _written(seen, [*_finalizers(seen), OURS[ref.kind]], kube=kube, mirror=mirror)
    except Stale:
        await look(ref, kube=kube, mirror=mirror)
        raise
    must_be_the_planned(todo, written)
    return written


async def unmark(live: Manifest, *, kube: Kube, mirror: Mirror) -> None:
    """Drops ours; other people's stay. Raises Stale if somebody wrote the object since ``live``."""
    kept = [each for each in _finalizers(live) if each != OURS[live["kind"]]]
    await _written(live, kept, kube=kube, mirror=mirror)


async def release(step: Release, *, kube: Kube, mirror: Mirror) -> None:
    """Lets go of an object that is being deleted. Raises Stale if it is another by now, or is not deleted at all."""
    live = await look(step.ref, kube=kube, mirror=mirror)
    if live is None:
        return
    if live["metadata"]["uid"] != step.uid or "deletionTimestamp" not in live["metadata"]:
        raise Stale(f"{step.ref} is not the object that was seen to go")
    await unmark(live, kube=kube, mirror=mirror)


async def _written(live: Manifest, wanted: list[str], *, kube: Kube, mirror: Mirror) -> Manifest:
    """Writes the finalizer list, provided nobody wrote the object since ``live``."""
    ref = Ref.of(live)
    if wanted == _finalizers(live):
        return live
    operations = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
        {"op": "add", "path": "/metadata/finalizers", "value": wanted},
    ]
    try:
        written = await kube.patch_json(ref, operations)
    except NotFound:
        forget(ref, mirror)
        raise Stale(f"{ref} is gone") from None
    except (Conflict, Invalid) as changed:
        raise Stale(f"{ref} changed under the finalizer: {changed.message}") from changed
    if not wanted and "deletionTimestamp" in written["metadata"]:
        mirror.remove(written)  # the last finalizer of a deleted object: it is gone with this answer
    else:
        mirror.put(written)
    return written


def _finalizers(manifest: Manifest) -> list[str]:
    return list(manifest["metadata"].get("finalizers") or [])
