"""How well the nodes of a cluster are, and for how long one of them has not been: what a repair may depend on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kaito_operator.api.conditions import by_type, moment
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


def is_ready(node: Manifest) -> bool:
    """Whether its kubelet says that it is."""
    return bool(_ready(node).get("status") == "True")


def patience(node: Manifest, now: datetime, *, seconds: float | None) -> float | None:
    """The seconds that are left for a node to become Ready again; None if it is, or if nobody knows since when not."""
    since = _ready(node).get("lastTransitionTime")
    if seconds is None or is_ready(node) or not since:
        return None
    return seconds - (now - moment(since)).total_seconds()


def _ready(node: Manifest) -> Manifest:
    found: Manifest = by_type((node.get("status") or {}).get("conditions") or ()).get("Ready", {})
    return found
