"""A pod is asked to leave its node, or made to; whether it has gone is seen in the next pass."""

import logging

from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import Conflict, NotFound, TooManyRequests
from kaito_operator.plan import Evict

log = logging.getLogger(__name__)


async def evict(step: Evict, *, kube: Kube) -> None:
    """Asks once; a disruption budget that has no room is a matter of time."""
    try:
        if step.force is None:
            await kube.evict(step.ref, uid=step.uid)
        else:
            await kube.delete(step.ref, uid=step.uid, grace_seconds=step.force)
    except (NotFound, Conflict):
        return  # it is gone, or another pod has its name by now
    except TooManyRequests as later:
        log.info("%s stays for now: %s", step.ref, later.message)
