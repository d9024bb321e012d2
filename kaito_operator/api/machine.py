"""Machine, karpenter.sh/v1alpha5: Karpenter's own API before NodeClaim, as its CRD of v0.29 has it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Quantities = Annotated[dict[str, Annotated[str, Field(max_length=64)]], Field(max_length=64)]


class ApiModel(BaseModel):
    """Camel-case in YAML as written here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Taint(ApiModel):
    """A taint that the node gets."""

    key: str = Field(max_length=316, description="The key.")
    value: str = Field("", max_length=63, description="The value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(description="The effect.")


class Requirement(ApiModel):
    """What the machine must be."""

    key: str = Field(max_length=316, description="A label of the node.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(description="How it is compared.")
    values: list[Annotated[str, Field(max_length=63)]] = Field([], max_length=100, description="With what.")


class Resources(ApiModel):
    """What the machine must have."""

    requests: Quantities = Field({}, description="At least so much; storage is the size of the disk.")


class TemplateRef(ApiModel):
    """Kept for Karpenter; gpu-provisioner does not read it."""

    name: str = Field(max_length=253, description="The name.")
    kind: str = Field("", max_length=63, description="The kind.")
    apiVersion: str = Field("", max_length=253, description="The version.")


class Spec(ApiModel):
    """What is asked for."""

    taints: list[Taint] = Field([], max_length=32, description="Taints of the node.")
    startupTaints: list[Taint] = Field(
        [], max_length=32, description="Taints that somebody takes off once it is set up."
    )
    requirements: list[Requirement] = Field([], max_length=100, description="What the machine must be.")
    resources: Resources = Field(Resources(), description="What the machine must have.")
    machineTemplateRef: TemplateRef | None = Field(None, description="Kept for Karpenter.")
    kubelet: (
        Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})] | None
    ) = Field(None, description="Kept for Karpenter.")


class StatusCondition(ApiModel):
    """Karpenter's condition: there is no observedGeneration, and severity tells waiting from failing."""

    type: str = Field(max_length=316, description="MachineLaunched, MachineRegistered, MachineInitialized or Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    lastTransitionTime: str | None = Field(
        None, description="When it last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field("", max_length=1024, description="Why, in one word.")
    message: str = Field("", max_length=32768, description="Why.")
    severity: str = Field("", max_length=32, description="Empty for an error, Info while in progress.")


class Status(ApiModel):
    """What has become of it."""

    nodeName: str = Field("", max_length=253, description="The node.")
    providerID: str = Field("", max_length=1024, description="The virtual machine, as the cloud names it.")
    capacity: Quantities = Field({}, description="What the node has.")
    allocatable: Quantities = Field({}, description="What of it pods can have.")
    conditions: list[StatusCondition] = Field([], max_length=32, description="How far it is.")


class Machine(ApiModel):
    """One machine that is asked for, and the node it becomes."""

    spec: Spec = Field(Spec(), description="What is asked for.")
    status: Status | None = Field(None, description="What has become of it.")


COLUMNS = (
    ("Type", "string", ".metadata.labels.node\\.kubernetes\\.io/instance-type", 0),
    ("Zone", "string", ".metadata.labels.topology\\.kubernetes\\.io/zone", 0),
    ("Node", "string", ".status.nodeName", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Capacity", "string", ".metadata.labels.karpenter\\.sh/capacity-type", 1),
    ("Provisioner", "string", ".metadata.labels.karpenter\\.sh/provisioner-name", 1),
    ("Template", "string", ".spec.machineTemplateRef.name", 1),
)
