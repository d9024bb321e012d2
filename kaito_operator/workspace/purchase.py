"""What machines are asked for with: KAITO's Machine for gpu-provisioner, or a NodeClaim for any Karpenter."""

from dataclasses import dataclass

from kaito_operator.api.kinds import MACHINE, NODECLAIM, Kind
from kaito_operator.api.reasons import ConditionType


@dataclass(frozen=True, slots=True)
class NodeClass:
    """The provider's settings that a claim names."""

    group: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Purchase:
    """The kind that is bought with, and the condition that tells of it."""

    kind: Kind
    condition: ConditionType
    node_class: NodeClass | None = None
    """Of claims alone."""


MACHINES = Purchase(MACHINE, ConditionType.MACHINE_READY)


def node_claims(node_class: NodeClass) -> Purchase:
    """Bought from a Karpenter that knows this class of nodes."""
    return Purchase(NODECLAIM, ConditionType.NODE_CLAIM_READY, node_class)
