"""How Azure's stand-in behaves, as far as it can be told otherwise: what a test or a person may set while it runs."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

AUDIENCES = (
    "https://management.core.windows.net/",
    "https://management.core.windows.net",
    "https://management.azure.com/",
    "https://management.azure.com",
)
"""For whom a token must have been issued, in the order in which Azure Resource Manager names them."""
PLENTY = 100_000


class BucketSize(BaseModel):
    """A token bucket: so many requests at once, and so many more a second."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    burst: float = Field(gt=0)
    per_second: float = Field(gt=0)


# "Throttling limits on AKS resource provider APIs", and "How Azure Resource Manager throttles requests".
BUCKETS: Mapping[str, BucketSize] = {
    "put-agent-pool": BucketSize(burst=20, per_second=1 / 60),
    "operation-status": BucketSize(burst=200, per_second=2),
    "other": BucketSize(burst=60, per_second=1),
    "reads": BucketSize(burst=250, per_second=25),
    "writes": BucketSize(burst=200, per_second=10),
    "deletes": BucketSize(burst=200, per_second=10),
}
"""As documented: the first is one bucket for each agent pool, the others are one for each subscription; the last three
are those of the front door."""


class Behaviour(BaseModel):
    """Everything that ``PUT /control/settings`` takes; what is not named there stays as it is."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    boot_seconds: NonNegativeFloat = Field(5.0, description="How long a pool is Creating.")
    operation_seconds: NonNegativeFloat = Field(0.0, description="How long a pool is Updating, Deleting or Canceling.")
    delete_while_creating: Literal["overrides", "conflicts"] = Field(
        "overrides", description="Whether a DELETE ends the creation under way, or is refused with 409."
    )
    cluster: str = Field("", description="The only cluster there is; other names answer 404. Empty: every name is one.")
    cluster_operation: str = Field(
        "", description="An operation on the cluster itself, such as Updating: 409 meanwhile."
    )
    page_size: NonNegativeInt = Field(0, description="Pools on one page of a LIST; 0: all on one.")
    most_pools: NonNegativeInt = Field(100, description="Agent pools of one cluster.")
    throttled: bool = Field(True, description="Whether requests beyond the buckets are answered with 429.")
    buckets: dict[str, BucketSize] = Field(default_factory=lambda: dict(BUCKETS), description="Sizes of the buckets.")
    tokens_checked: bool = Field(
        False, description="Whether a token must be a JWT, in force, and for the right audience."
    )
    audiences: tuple[str, ...] = Field(AUDIENCES, description="For whom a token may have been issued.")
    location: str = Field("local", description="The region, as figures of sizes and usages name it.")
    quotas: dict[str, NonNegativeInt] = Field(
        default_factory=dict,
        description=f"vCPUs of a family, of `cores` or of `lowPriorityCores`; {PLENTY} if not named.",
    )
    restricted: tuple[str, ...] = Field((), description="Sizes that the subscription may not have in the region.")
    budgets: tuple[str, ...] = Field((), description="Pools whose pods a disruption budget keeps where they are.")

    def change(self, told: Mapping[str, object]) -> None:
        """Takes over what is named. Raises pydantic's ValidationError, and then nothing is changed."""
        wanted = Behaviour.model_validate({**self.model_dump(), **told})
        for name in told:
            setattr(self, name, getattr(wanted, name))
