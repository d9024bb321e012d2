"""The place where another cloud plugs in: what a provider has to offer, in seven verbs and the errors they raise.

Contract, as Karpenter's: ``delete`` asks and returns; keep asking ``get`` until it answers None. Nothing waits for an
operation to end; its state is observed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from kaito_operator.gpu_provisioner.errors import Refusal

STUCK = ("Failed", "Canceled")
"""States in which the cloud has given up. The pool still counts, and may hold a machine that is paid for."""

SETTLED = ("Creating", "Succeeded", *STUCK)
"""States in which the cloud takes no machine away by itself, as it does to upgrade one."""


@dataclass(frozen=True, slots=True)
class AgentPool:
    """What the cloud holds under a name."""

    name: str
    state: str
    """provisioningState: Creating, Updating, Deleting, Succeeded, Failed, Canceled …"""
    etag: str = ""
    vm_size: str = ""
    spot: bool = False
    zones: tuple[str, ...] = ()
    """None where the region as a whole was asked for."""
    count: int | None = None
    """How many machines it has, or is to have; 0 is a spot machine that was taken back. None if it does not say."""
    tags: Mapping[str, str] = field(default_factory=dict)
    power: str = ""
    """Running or Stopped."""
    asked_at: datetime | None = None
    """When we asked for it; None if it does not say."""
    problem: Refusal | None = None
    """What the cloud says of a failed state."""

    @property
    def was_taken_back(self) -> bool:
        """Whether it is one of a spot machine that the cloud has evicted."""
        return self.spot and self.count == 0 and self.state == "Succeeded"

    def bears(self, tags: Mapping[str, str]) -> bool:
        """Whether it carries all of these; nothing bears no tags."""
        return bool(tags) and all(self.tags.get(key) == value for key, value in tags.items())


class CloudError(Exception):
    """The cloud said no; ``refusal`` says why, and when to ask again."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Cloud(Protocol):
    """A provider of agent pools of one machine. Every method raises CloudError."""

    async def identify(self) -> None:
        """Sees that there is somebody to ask as; the cloud itself need not be asked."""

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        """Asks for a pool, on condition that there is none of the name."""

    async def delete(self, name: str, *, etag: str) -> None:
        """Asks for the deletion of the pool, on condition that nobody changed it since."""

    async def abort(self, name: str) -> None:
        """Asks for the end of the operation under way on the pool; what it leaves behind is seen by ``get``."""

    async def get(self, name: str) -> AgentPool | None:
        """The pool as it is now; None if there is none."""

    async def list(self) -> list[AgentPool]:
        """All pools of the cluster, other people's too."""

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        """Why a create would be refused, as far as that is known without trying; None if nothing is known."""

    async def close(self) -> None:
        """Lets go of connections."""
