"""Which pods have to leave a node before it goes, in which order, and whether anything is still to be waited for.

As Karpenter drains: by Eviction, so that disruption budgets are asked; system-critical pods last, of each sort those
of DaemonSets last; what tolerates the cordon stays where it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito_operator.api.conditions import moment
from kaito_operator.plan import Evict, Manifest, Ref

CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
"""The taint that Kubernetes gives an unschedulable node."""
DO_NOT_DISRUPT = ("karpenter.sh/do-not-disrupt", "karpenter.sh/do-not-evict")
"""Annotations of pods that may not be evicted; the second is of Karpenter's v1alpha5."""
CRITICAL = ("system-cluster-critical", "system-node-critical")
STUCK = timedelta(minutes=1)
"""A pod that long after its deletionTimestamp will not end any more: its kubelet is dead (Karpenter waits as long)."""
LEAST_GRACE, USUAL_GRACE = 1, 30
"""Seconds. A grace of 0 would take the pod out of the API while its container runs on."""
NAMES_TOLD = 3


@dataclass(frozen=True, slots=True)
class Drain:
    """What a node's drain comes to now."""

    evict: tuple[Evict, ...] = ()
    waiting: str = ""
    """What is waited for, for people; empty once the node may go."""


def drained(pods: Sequence[Manifest], attachments: Sequence[Manifest], now: datetime, *, by: datetime | None) -> Drain:
    """The next evictions of a node with these pods and VolumeAttachments.

    ``by``: when the node goes whatever is on it (terminationGracePeriod); None is never.
    """
    if by is not None and now >= by:
        return Drain()
    leaving = [pod for pod in pods if _must_leave(pod, now)]
    if leaving:
        return Drain(tuple(_steps(leaving, now, by=by)), f"{_names(leaving)} to leave")
    volumes = [] if any(_has_claims(pod) and not _ended(pod) for pod in pods) else attachments
    if volumes:
        return Drain(waiting=f"{len(volumes)} volume(s) to be detached")
    return Drain()


def _steps(leaving: Sequence[Manifest], now: datetime, *, by: datetime | None) -> Iterable[Evict]:
    """Those of the first group that has any left; and by force those whose own grace would not fit any more."""
    first = min(_group(pod) for pod in leaving)
    for pod in leaving:
        forced = _forced(pod, now, by=by)
        asked = _group(pod) == first and not _is_kept(pod) and "deletionTimestamp" not in pod["metadata"]
        if forced is not None or asked:
            yield Evict(Ref.of(pod), pod["metadata"]["uid"], force=forced)


def _forced(pod: Manifest, now: datetime, *, by: datetime | None) -> int | None:
    """The seconds it is given if it has to go now to be gone in time; None while there is time to be asked."""
    if by is None:
        return None
    left, wanted = (by - now).total_seconds(), int(pod["spec"].get("terminationGracePeriodSeconds", USUAL_GRACE))
    if left > wanted:
        return None
    ends = pod["metadata"].get("deletionTimestamp")
    if ends and moment(ends) <= by:
        return None  # it is on its way, and in time
    return max(LEAST_GRACE, min(wanted, int(left)))


def _must_leave(pod: Manifest, now: datetime) -> bool:
    meta = pod["metadata"]
    ends = meta.get("deletionTimestamp")
    if ends and now - moment(ends) > STUCK:
        return False
    mirrored = "kubernetes.io/config.mirror" in (meta.get("annotations") or {})
    # one that has ended and is being deleted stays in the API until its kubelet has said so; without one, for a minute
    ended = _ended(pod) and not ends
    return not (ended or mirrored or _tolerates_the_cordon(pod))


def _ended(pod: Manifest) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _tolerates_the_cordon(pod: Manifest) -> bool:
    return any(_tolerates(toleration) for toleration in pod["spec"].get("tolerations") or ())


def _tolerates(toleration: Manifest) -> bool:
    if toleration.get("effect", "") not in ("", CORDONED["effect"]):
        return False
    key, exists = toleration.get("key", ""), toleration.get("operator") == "Exists"
    return exists if not key else key == CORDONED["key"] and (exists or not toleration.get("value"))


def _is_kept(pod: Manifest) -> bool:
    annotations = pod["metadata"].get("annotations") or {}
    return any(annotations.get(key) == "true" for key in DO_NOT_DISRUPT)


def _group(pod: Manifest) -> tuple[bool, bool]:
    owners = pod["metadata"].get("ownerReferences") or ()
    return pod["spec"].get("priorityClassName") in CRITICAL, any(owner["kind"] == "DaemonSet" for owner in owners)


def _has_claims(pod: Manifest) -> bool:
    return any("persistentVolumeClaim" in volume for volume in pod["spec"].get("volumes") or ())


def _names(pods: Sequence[Manifest]) -> str:
    names = [f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods[:NAMES_TOLD]]
    more = len(pods) - len(names)
    return f"{len(pods)} pod(s) ({', '.join(names)}{f' and {more} more' if more else ''})"
