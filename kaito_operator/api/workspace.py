"""The Workspace, kaito.sh/v1alpha1: the model its CRD is made from, and the frozen value that a pass works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from kaito_operator.api import labels
from kaito_operator.api.conditions import by_type, moment
from kaito_operator.api.fields import DNS_LABEL, ApiModel, Conditions, Free, Line, Name, Short, cel, checked
from kaito_operator.api.kinds import WORKSPACE
from kaito_operator.api.problems import Problem, of_validation
from kaito_operator.api.spec import Inference, Resource, Tuning
from kaito_operator.plan import Key, Manifest, Ref, Subject


class Estimate(ApiModel):
    """Ours. What the model needs, as worked out before anything is bought."""

    nodes: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Nodes it needs.")
    gpus_per_node: Annotated[int, Field(ge=0)] | None = Field(default=None, description="GPUs it uses on each.")
    memory_gib: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        alias="memoryGiB",
        description="Memory it needs, of all GPUs together or of the machine; while tuning, for that as well.",
    )
    price_per_hour: Short | None = Field(default=None, description="What its machines cost, with the currency.")


class MachineStatus(ApiModel):
    """Ours. What has been asked for in one of the Workspace's places, and what became of it."""

    slot: Annotated[int, Field(ge=0)] = Field(description="Which place, from 0.")
    attempt: Annotated[int, Field(ge=1)] = Field(description="The how manyth Machine for it, from 1.")
    name: Name | None = Field(default=None, description="The Machine or NodeClaim; absent while none may be asked for.")
    losses: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Machines that were lost in a row before it; the wait for the next doubles with each."
    )
    reason: Short | None = Field(default=None, description="Why the last one was lost, in one word.")
    message: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="Why the last one was lost."
    )
    not_before: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = Field(
        default=None, description="When the next was, or will be, asked for at the earliest."
    )


class TuningStatus(ApiModel):
    """Ours. How far the tuning is."""

    job: Name | None = Field(default=None, description="The Job that trains.")
    step: Annotated[int, Field(ge=0)] | None = Field(default=None, description="The last step done.")
    steps: Annotated[int, Field(ge=0)] | None = Field(default=None, description="All steps.")
    loss: Short | None = Field(default=None, description="The loss at that step.")
    epoch: Short | None = Field(default=None, description="Passes over the data at that step.")
    eta_seconds: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Seconds to the last step.")
    tokens_per_second: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Tokens trained on a second, padding aside."
    )
    peak_memory: Short | None = Field(
        default=None, description="The most memory held so far: of the GPU, else of the process."
    )
    image: Line | None = Field(default=None, description="Where the result was pushed.")
    digest: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        default=None, description="The digest of what was pushed."
    )


class HubModel(ApiModel):
    """Ours. What the Hugging Face Hub said of a model that is not in the catalogue, when it was asked."""

    id: Name | None = Field(default=None, description="Its id on the Hub.")
    revision: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="The commit that is served."
    )
    row: Free | None = Field(default=None, description="What was read of it, as a row of the catalogue.")


class Status(ApiModel):
    """What the operator has seen. Nobody else writes it, and nothing is lost with it."""

    observed_generation: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Ours. The metadata.generation that this status is about."
    )
    conditions: Conditions = Field(
        default=(), description="Where the Workspace stands; docs/reference/conditions.md lists types and reasons."
    )
    worker_nodes: Annotated[tuple[Name, ...], Field(max_length=1000)] = Field(
        default=(), description="The nodes in use, by name."
    )
    target_node_count: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Ours. The nodes wanted.")
    machines: Annotated[
        tuple[MachineStatus, ...],
        Field(
            max_length=2000,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["slot"]},
        ),
    ] = Field(default=(), description="Ours. The account of the machines asked for, by place.")
    endpoint: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None,
        description="Ours. Where the model answers, in the cluster or at its load balancer; empty until it has once.",
    )
    estimate: Estimate | None = Field(default=None, description="Ours. What the model needs.")
    model: HubModel | None = Field(
        default=None, description="Ours. What the Hub said of a model that is not in the catalogue."
    )
    tuning: TuningStatus | None = Field(default=None, description="Ours. How far the tuning is.")


class WorkspaceBody(ApiModel):
    """What the user wrote."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            # Rules on the root are checked at creation alone: an object stored under older rules must stay deletable.
            cel(
                f"oldSelf.hasValue() || self.metadata.name.matches('^{DNS_LABEL}$')",
                "metadata.name: write at most 63 lower-case letters, digits and '-', a letter or digit at both ends",
                also_without_old=True,
            ),
            cel(
                "oldSelf.hasValue() || has(self.inference) != has(self.tuning)",
                "write exactly one of inference and tuning",
                also_without_old=True,
            ),
            cel(
                "oldSelf.hasValue() || !has(self.tuning) || self.resource.count == 1",
                "resource.count: tuning runs on one node, write 1",
                also_without_old=True,
            ),
            cel(
                "has(self.inference) == has(oldSelf.inference) && has(self.tuning) == has(oldSelf.tuning)",
                "inference and tuning cannot be swapped: delete the Workspace and create another",
            ),
        )
    )

    resource: Resource = Field(description="The machines.")
    inference: Inference | None = Field(default=None, description="Serve a model. Cannot be added or removed later.")
    tuning: Tuning | None = Field(default=None, description="Tune a model. Cannot be added or removed later.")


class WorkspaceModel(WorkspaceBody):
    """A model to serve, or a tuning job, and the machines for it."""

    status: Status | None = Field(default=None, description="What the operator has seen.")


@dataclass(frozen=True, slots=True)
class Workspace:
    """One Workspace as a pass sees it. ``body`` is None if what is stored cannot be read; then there are problems."""

    key: Key
    uid: str
    generation: int
    deleted_at: datetime | None
    finalizers: tuple[str, ...]
    annotations: Mapping[str, str]
    body: WorkspaceBody | None
    problems: tuple[Problem, ...]
    """What in its shape cannot be read."""
    status: Manifest
    """The status as it was last written."""
    conditions: Mapping[str, Mapping[str, Any]]
    """The conditions in it, by type."""

    @property
    def ref(self) -> Ref:
        """Its name in the cluster."""
        return Ref(WORKSPACE.api_version, WORKSPACE.kind, self.key.name, self.key.namespace)

    @property
    def subject(self) -> Subject:
        """What the second look compares with the live object."""
        return Subject(self.ref, self.uid, self.generation, deleting=self.deleted_at is not None)

    @property
    def load_balanced(self) -> bool:
        """Whether its Service is to be a LoadBalancer. KAITO reads "True" alone; any case will do."""
        return self.annotations.get(labels.ENABLE_LB, "").lower() == "true"


def conditions_of(status: object) -> dict[str, Mapping[str, Any]]:
    """The conditions of a status by type, whatever older rules may have let into it."""
    seen = status.get("conditions") if isinstance(status, Mapping) else None
    return by_type(c for c in seen if isinstance(c, Mapping) and "type" in c) if isinstance(seen, list) else {}


def parse_workspace(manifest: Manifest) -> Workspace:
    """The value of a stored object. What cannot be read, as older rules may have stored it, becomes problems."""
    meta = manifest["metadata"]
    body, problems = _body(manifest)
    status = manifest.get("status")
    return Workspace(
        key=Key(meta.get("namespace", ""), meta["name"]),
        uid=meta.get("uid", ""),
        generation=meta.get("generation", 0),
        deleted_at=moment(meta["deletionTimestamp"]) if "deletionTimestamp" in meta else None,
        finalizers=tuple(meta.get("finalizers") or ()),
        annotations=meta.get("annotations") or {},
        body=body,
        problems=problems,
        status=status if isinstance(status, Mapping) else {},
        conditions=conditions_of(status),
    )


def _body(manifest: Manifest) -> tuple[WorkspaceBody | None, tuple[Problem, ...]]:
    try:
        return WorkspaceBody.model_validate(manifest), ()
    except ValidationError as error:
        return None, of_validation(error)
