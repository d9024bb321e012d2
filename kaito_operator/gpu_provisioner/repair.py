"""Whether a node that has long been not Ready is to be replaced, and how long it still has to recover.

AKS repairs nodes too (reboot, reimage, redeploy); what it has not mended in the given time is not waited for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kaito_operator.api.conditions import by_type, moment
from kaito_operator.gpu_provisioner.orphans import is_ready
from kaito_operator.plan import Manifest

UNHEALTHY = 0.2
"""The share of nodes, rounded up, of which more must not be replaced at once (Karpenter's NodeRepair)."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many nodes the cluster has, and how many of them are not Ready."""

    nodes: int = 0
    unready: int = 0

    @property
    def ails(self) -> bool:
        """Whether so many are not Ready that it is not the nodes' own fault."""
        return self.unready > math.ceil(self.nodes * UNHEALTHY)


def fleet(nodes: Sequence[Manifest]) -> Fleet:
    """Of all nodes."""
    return Fleet(len(nodes), sum(not is_ready(node) for node in nodes))


def patience(node: Manifest, now: datetime, *, seconds: float | None) -> float | None:
    """The seconds that are left for a node to become Ready again; None if it is, or if nobody knows since when not."""
    ready = by_type((node.get("status") or {}).get("conditions") or ()).get("Ready", {})
    since = ready.get("lastTransitionTime")
    if seconds is None or is_ready(node) or not since:
        return None
    return seconds - (now - moment(since)).total_seconds()
