"""NodeClaim, karpenter.sh/v1: what took Machine's place in Karpenter, as its CRD of v1.7 to v1.14 has it."""

from typing import Annotated, Literal

from pydantic import Field

from kaito_operator.api.fields import cel, checked
from kaito_operator.api.machine import ApiModel, Quantities, Resources, Taint

NEVER = "Never"
"""For ``expireAfter``: Karpenter's default of 720h takes the node away by force, do-not-disrupt or not."""
DURATION = r"^([0-9]+(s|m|h))+$"
KAITO_NODE_CLASS = ("kaito.sh", "KaitoNodeClass")
"""Group and kind of the node class by which a claim says that it is for gpu-provisioner."""


class NodeClassRef(ApiModel):
    """Which provider the claim is for."""

    group: str = Field(min_length=1, max_length=253, pattern="^[^/]*$", description="The API group.")
    kind: str = Field(min_length=1, max_length=63, description="The kind.")
    name: str = Field(min_length=1, max_length=253, description="The name.")


class Requirement(ApiModel):
    """What the machine must be."""

    key: str = Field(max_length=316, description="A label of the node.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Gte", "Lte"] = Field(
        description="How it is compared."
    )
    values: list[Annotated[str, Field(max_length=63)]] = Field([], max_length=100, description="With what.")
    minValues: int | None = Field(None, ge=1, le=50, description="How many different values there must be.")


class Spec(ApiModel):
    """What is asked for; it cannot be changed."""

    nodeClassRef: NodeClassRef = Field(description="Which provider the claim is for.")
    requirements: list[Requirement] = Field(max_length=100, description="What the machine must be.")
    taints: list[Taint] = Field([], max_length=32, description="Taints of the node.")
    startupTaints: list[Taint] = Field(
        [], max_length=32, description="Taints that somebody takes off once it is set up."
    )
    resources: Resources = Field(Resources(), description="What the machine must have.")
    terminationGracePeriod: str = Field(
        "",
        max_length=64,
        description="How long a deletion may wait for the pods.",
        json_schema_extra={"pattern": DURATION},
    )
    expireAfter: str = Field(
        "720h",
        max_length=64,
        description="How long the node may live, or Never.",
        json_schema_extra={"pattern": rf"^(([0-9]+(s|m|h))+|{NEVER})$"},
    )


class StatusCondition(ApiModel):
    """Karpenter's condition."""

    type: str = Field(max_length=316, description="Launched, Registered, Initialized or Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    lastTransitionTime: str = Field(description="When it last changed.", json_schema_extra={"format": "date-time"})
    reason: str = Field("", max_length=1024, description="Why, in one word.")
    message: str = Field("", max_length=32768, description="Why.")
    observedGeneration: int | None = Field(None, ge=0, description="The metadata.generation it was worked out for.")


class Status(ApiModel):
    """What has become of it."""

    nodeName: str = Field("", max_length=253, description="The node.")
    providerID: str = Field("", max_length=1024, description="The virtual machine, as the cloud names it.")
    imageID: str = Field("", max_length=1024, description="The image it runs.")
    capacity: Quantities = Field({}, description="What the node has.")
    allocatable: Quantities = Field({}, description="What of it pods can have.")
    conditions: list[StatusCondition] = Field([], max_length=32, description="How far it is.")
    lastPodEventTime: str | None = Field(
        None, description="When a pod last came or went.", json_schema_extra={"format": "date-time"}
    )


class NodeClaim(ApiModel):
    """One machine that is asked for, and the node it becomes."""

    spec: Spec = Field(
        description="What is asked for.",
        json_schema_extra=checked(cel("self == oldSelf", "spec is immutable")),
    )
    status: Status | None = Field(None, description="What has become of it.")


COLUMNS = (
    ("Type", "string", ".metadata.labels.node\\.kubernetes\\.io/instance-type", 0),
    ("Capacity", "string", ".metadata.labels.karpenter\\.sh/capacity-type", 0),
    ("Zone", "string", ".metadata.labels.topology\\.kubernetes\\.io/zone", 0),
    ("Node", "string", ".status.nodeName", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("ImageID", "string", ".status.imageID", 1),
    ("ID", "string", ".status.providerID", 1),
    ("NodePool", "string", ".metadata.labels.karpenter\\.sh/nodepool", 1),
    ("NodeClass", "string", ".spec.nodeClassRef.name", 1),
    ("Drifted", "string", '.status.conditions[?(@.type=="Drifted")].status', 1),
)
