"""The second look: what is read live before a write that costs money or cannot be undone.

What it finds goes into the mirror; where it is not what the plan was made for, the plan is Stale.
"""

from kaito_operator.api.kinds import BY_NAME
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import NotFound
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Holding, Manifest, Plan, Ref


class Stale(Exception):
    """The second look found something else than the plan was made for. The mirror knows better now: plan again."""


async def live_subject(todo: Plan, *, kube: Kube, mirror: Mirror) -> Manifest:
    """The second look: the parent as it is now. Raises Stale if it is not the one the plan was made for."""
    subject = todo.subject
    try:
        live = await kube.get(subject.ref)
    except NotFound:
        forget(subject.ref, mirror)
        raise Stale(f"{subject.ref} is gone") from None
    mirror.put(live)
    must_be_the_planned(todo, live)
    return live


def must_be_the_planned(todo: Plan, live: Manifest) -> None:
    """Raises Stale if the live parent is another than the plan was made for."""
    subject, meta = todo.subject, live["metadata"]
    found = (meta["uid"], meta.get("generation", 0), "deletionTimestamp" in meta)
    if found != (subject.uid, subject.generation, subject.deleting):
        raise Stale(f"{subject.ref} changed")


async def must_hold(holding: Holding, *, kube: Kube, mirror: Mirror) -> None:
    """What was bought before under other names counts too, however late its events are. Raises Stale if there is more
    than the plan knew."""
    live = await kube.select(holding.selection)
    unknown = [each for each in live.items if each["metadata"]["uid"] not in holding.uids]
    for each in unknown:
        mirror.put(each)
    if unknown:
        raise Stale(f"{Ref.of(unknown[0])} is there already")


async def must_be_absent(ref: Ref, *, kube: Kube, mirror: Mirror) -> None:
    """An apply would take over whatever has the name: somebody else's object, or our own that was not seen yet."""
    if await look(ref, kube=kube, mirror=mirror) is not None:
        raise Stale(f"{ref} exists already")


async def look(ref: Ref, *, kube: Kube, mirror: Mirror) -> Manifest | None:
    """The live object, which the mirror learns too; None if there is none."""
    try:
        live = await kube.get(ref)
    except NotFound:
        forget(ref, mirror)
        return None
    mirror.put(live)
    return live


def forget(ref: Ref, mirror: Mirror) -> None:
    """Takes out of the mirror what is gone."""
    known = mirror.get(BY_NAME[ref.api_version, ref.kind], ref.name, ref.namespace)
    if known is not None:
        mirror.remove(known)
