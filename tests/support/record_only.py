"""The second implementation of ``cloud.py``: pools that are only written down; it shows what another cloud must do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kaito_operator.api.conditions import moment
from kaito_operator.gpu_provisioner.agent_pool import ASKED_TAG
from kaito_operator.gpu_provisioner.cloud import AgentPool, CloudError
from kaito_operator.gpu_provisioner.errors import Refusal, classified


@dataclass
class RecordOnlyCloud:
    """Pools come and go at once; ``becomes`` is the state they come in, ``refuse`` maps a verb to its refusal."""

    pools: dict[str, AgentPool] = field(default_factory=dict)
    becomes: str = "Succeeded"
    refuse: dict[str, Refusal] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Every verb and name, in order."""

    async def identify(self) -> None:
        """Everybody knows us."""
        self._called("identify", "")

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        """On condition that there is none of the name."""
        self._called("create", name)
        if name in self.pools:
            raise CloudError(classified(412, {"code": "PreconditionFailed", "message": f"{name} exists"}))
        properties = wanted["properties"]
        tags = properties["tags"]
        asked = moment(tags[ASKED_TAG]) if ASKED_TAG in tags else datetime.now(UTC)
        self.pools[name] = AgentPool(
            name, self.becomes, etag="1", vm_size=properties["vmSize"], tags=tags, power="Running", asked_at=asked
        )
        return self.pools[name]

    async def delete(self, name: str, *, etag: str) -> None:
        """On condition that it is still the version that was seen."""
        self._called("delete", name)
        if name in self.pools and etag and self.pools[name].etag != etag:
            raise CloudError(classified(412, {"code": "PreconditionFailed", "message": f"{name} changed"}))
        self.pools.pop(name, None)

    async def abort(self, name: str) -> None:
        """The operation under way ends where it is."""
        self._called("abort", name)
        self.pools[name] = replace(self.pools[name], state="Canceled", etag=f"{self.pools[name].etag}a")

    async def get(self, name: str) -> AgentPool | None:
        """None if there is none."""
        self._called("get", name)
        return self.pools.get(name)

    async def list(self) -> list[AgentPool]:
        """All."""
        self._called("list", "")
        return list(self.pools.values())

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        """Whatever a test put there."""
        return self.refuse.get("outlook")

    async def close(self) -> None:
        """Nothing is open."""

    def _called(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        if verb in self.refuse:
            raise CloudError(self.refuse[verb])
