"""What Azure's stand-in holds: the agent pools of one cluster, and the operations under way on them. No HTTP here."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from local_cluster.azure_machines import VirtualMachine, VirtualMachines, virtual_machine
from local_cluster.errors import LocalClusterError

log = logging.getLogger(__name__)

BUSY = ("Creating", "Updating", "Deleting")
IMMUTABLE = ("vmSize", "osDiskSizeGB", "osDiskType", "osType", "type", "scaleSetPriority", "vnetSubnetID")
"""Properties that a PUT on an existing pool may not change (AKS REST reference, Agent Pools)."""
DEFAULTS = {
    "mode": "User",
    "osType": "Linux",
    "osSKU": "Ubuntu",
    "type": "VirtualMachineScaleSets",
    "scaleSetPriority": "Regular",
    "powerState": {"code": "Running"},
}
"""What AKS fills in where a PUT is silent."""


class OperationFailed(Exception):
    """An operation ends in this error: code, message and, maybe, details."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.error = dict(error)


@dataclass(slots=True)
class Operation:
    """A long-running operation as its status URL tells it."""

    name: str
    status: str = "InProgress"
    error: dict[str, Any] | None = None
    work: asyncio.Task[None] | None = None

    def told(self) -> dict[str, Any]:
        """The body of its status URL."""
        return {"name": self.name, "status": self.status, **({"error": self.error} if self.error else {})}


@dataclass(slots=True)
class Pool:
    """One agent pool: its REST body, its machine, and the operation that is or was last under way on it."""

    name: str
    body: dict[str, Any]
    operation: Operation
    machine: VirtualMachine | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """The part of the body that matters."""
        properties: dict[str, Any] = self.body["properties"]
        return properties

    @property
    def state(self) -> str:
        """provisioningState."""
        return str(self.properties["provisioningState"])

    @property
    def etag(self) -> str:
        """Another one after every change."""
        return str(self.properties["eTag"])

    def enter(self, state: str) -> None:
        """A new state is a new etag."""
        self.properties.update(provisioningState=state, eTag=uuid4().hex)


@dataclass(slots=True)
class Pools:
    """The agent pools of one cluster. Whoever calls has seen to it that the call is allowed."""

    machines: VirtualMachines
    boot_seconds: float
    node_resource_group: str
    by_name: dict[str, Pool] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)

    def create(self, name: str, *, cluster: str, wanted: Mapping[str, Any], fails: Mapping[str, Any] | None) -> Pool:
        """A new pool, Creating. With ``fails`` it becomes Failed with that error where it would have become Succeeded.

        ``cluster``: the resource id of its cluster.
        """
        body = {
            "id": f"{cluster}/agentPools/{name}",
            "name": name,
            "type": "Microsoft.ContainerService/managedClusters/agentPools",
            "properties": {**DEFAULTS, **wanted},
        }
        pool = self.by_name[name] = Pool(name, body, Operation(""))
        self._begin(pool, "Creating", self._boot(pool, fails))
        return pool

    def update(self, pool: Pool, wanted: Mapping[str, Any]) -> None:
        """Changes what may be changed."""
        pool.properties.update(wanted)
        self._begin(pool, "Updating", self._settle(pool))

    def delete(self, pool: Pool) -> None:
        """The pool goes, and its machine. An operation under way is overridden, as Azure does; asking twice is once."""
        if pool.state != "Deleting":
            self._begin(pool, "Deleting", self._remove(pool))

    async def stop(self) -> None:
        """Ends all operations under way."""
        works = [operation.work for operation in self.operations.values() if operation.work is not None]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    def _begin(self, pool: Pool, state: str, work: Awaitable[None]) -> None:
        if pool.operation.work is not None:
            pool.operation.work.cancel()
        pool.enter(state)
        pool.operation = operation = Operation(uuid4().hex)
        self.operations[operation.name] = operation
        operation.work = asyncio.create_task(_carried_out(work, pool, operation))

    async def _boot(self, pool: Pool, fails: Mapping[str, Any] | None) -> None:
        await asyncio.sleep(self.boot_seconds)
        if fails is not None:
            raise OperationFailed(fails)
        pool.machine = virtual_machine(pool.name, pool.body, node_resource_group=self.node_resource_group)
        await self.machines.start(pool.machine)
        pool.enter("Succeeded")

    async def _settle(self, pool: Pool) -> None:
        pool.enter("Succeeded")

    async def _remove(self, pool: Pool) -> None:
        if pool.machine is not None:
            await self.machines.stop(pool.machine.name)
        del self.by_name[pool.name]


async def _carried_out(work: Awaitable[None], pool: Pool, operation: Operation) -> None:
    """Follows the work to its end. A failed pool stays, and says why; an overridden operation is Canceled."""
    try:
        await work
    except asyncio.CancelledError:
        operation.status = "Canceled"
        raise
    except OperationFailed as failed:
        _fail(pool, operation, failed.error)
    except (LocalClusterError, OSError) as broken:
        log.warning("agent pool %s: %s", pool.name, broken)
        _fail(pool, operation, {"code": "CreateVMSSAgentPoolFailed", "message": str(broken)})
    else:
        operation.status = "Succeeded"


def _fail(pool: Pool, operation: Operation, error: dict[str, Any]) -> None:
    operation.status, operation.error = "Failed", error
    pool.properties["status"] = {"provisioningError": error}
    pool.enter("Failed")
