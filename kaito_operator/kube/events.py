"""Events as core/v1 has them, under names that keep a repeated pass from telling the same thing twice."""

from datetime import datetime
from hashlib import sha256

from kaito_operator.api.conditions import timestamp
from kaito_operator.plan import Event, Manifest


def as_manifest(event: Event, *, component: str, now: datetime) -> Manifest:
    """The Event object, which is about one uid and named after all that it tells, to the minute.

    To the minute, because the API server keeps an Event for an hour, and what happens again in that hour is news.
    """
    when = timestamp(now)
    told = "\0".join((event.uid, event.type, event.reason, event.message, when[: len("2026-11-23T12:00")]))
    about = event.about
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[:200].rstrip('-.')}.{sha256(told.encode()).hexdigest()[:16]}",
            "namespace": about.namespace or "default",  # where Kubernetes keeps those about cluster-scoped objects
        },
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "name": about.name,
            "uid": event.uid,
            **({"namespace": about.namespace} if about.namespace else {}),
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1024],
        "source": {"component": component},
        "reportingComponent": component,
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
