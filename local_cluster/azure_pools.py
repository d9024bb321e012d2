"""What Azure's stand-in holds: the agent pools of one cluster, and the operations under way on them. No HTTP here."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from local_cluster.azure_behaviour import Behaviour
from local_cluster.azure_machines import VirtualMachine, VirtualMachines, virtual_machine
from local_cluster.errors import LocalClusterError

log = logging.getLogger(__name__)

BUSY = ("Creating", "Updating", "Deleting", "Canceling")
DEFAULTS = {
    "count": 1,
    "mode": "User",
    "osType": "Linux",
    "osSKU": "Ubuntu",
    "osDiskSizeGB": 128,
    "maxPods": 110,
    "type": "VirtualMachineScaleSets",
    "scaleSetPriority": "Regular",
    "powerState": {"code": "Running"},
}
"""What AKS fills in where a PUT is silent."""
SPOT = {"scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1.0}
SPOT_KEY = "kubernetes.azure.com/scalesetpriority"


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
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None

    def end(self, status: str, error: dict[str, Any] | None = None) -> None:
        """Succeeded, Failed or Canceled."""
        self.status, self.error, self.ended = status, error, datetime.now(UTC)

    def told(self) -> dict[str, Any]:
        """The body of its status URL."""
        return {
            "name": self.name,
            "status": self.status,
            "startTime": self.started.isoformat(),
            **({"endTime": self.ended.isoformat()} if self.ended else {}),
            **({"error": self.error} if self.error else {}),
        }


@dataclass(slots=True)
class Pool:
    """One agent pool: its REST body, its machines, and the operation that is or was last under way on it."""

    name: str
    body: dict[str, Any]
    operation: Operation
    machines: list[VirtualMachine] = field(default_factory=list)

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
    behaviour: Behaviour
    node_resource_group: str
    by_name: dict[str, Pool] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)

    def create(self, name: str, *, cluster: str, wanted: Mapping[str, Any], fails: Mapping[str, Any] | None) -> Pool:
        """A new pool, Creating. With ``fails`` it becomes Failed with that error where it would have become Succeeded.

        ``cluster``: the resource id of its cluster.
        """
        spot = SPOT if wanted.get("scaleSetPriority") == "Spot" else {}
        body = {
            "id": f"{cluster}/agentPools/{name}",
            "name": name,
            "type": "Microsoft.ContainerService/managedClusters/agentPools",
            "properties": _with_spot_marks({**DEFAULTS, **spot, **wanted}),
        }
        pool = self.by_name[name] = Pool(name, body, Operation(""))
        self._begin(pool, "Creating", self._boot(pool, fails))
        return pool

    def update(self, pool: Pool, wanted: Mapping[str, Any], *, fails: Mapping[str, Any] | None = None) -> None:
        """Changes what may be changed."""
        pool.properties.update(_with_spot_marks({**pool.properties, **wanted}))
        self._begin(pool, "Updating", self._settle(pool, fails))

    def delete(self, pool: Pool, *, ignore_budgets: bool = False, fails: Mapping[str, Any] | None = None) -> None:
        """The pool goes, and its machines. An operation under way is overridden; asking twice is once."""
        if pool.state != "Deleting":
            stays = fails if ignore_budgets or pool.name not in self.behaviour.budgets else drain_failure(pool)
            self._begin(pool, "Deleting", self._remove(pool, stays))

    def abort(self, pool: Pool, *, fails: Mapping[str, Any] | None = None) -> None:
        """The operation under way ends where it is; nothing is rolled back, and the pool becomes Canceled."""
        self._begin(pool, "Canceling", self._give_up(pool, fails))

    async def evict(self, pool: Pool) -> None:
        """Azure takes the machines of a spot pool back; the pool stays, with none."""
        await self._scale(pool, 0)
        pool.properties["count"] = 0
        pool.enter(pool.state)

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
        await asyncio.sleep(self.behaviour.boot_seconds)
        _fail_if(fails)
        await self._scale(pool, pool.properties["count"])
        pool.enter("Succeeded")

    async def _settle(self, pool: Pool, fails: Mapping[str, Any] | None) -> None:
        await asyncio.sleep(self.behaviour.operation_seconds)
        _fail_if(fails)
        await self._scale(pool, pool.properties["count"])
        pool.properties.pop("status", None)
        pool.enter("Succeeded")

    async def _remove(self, pool: Pool, fails: Mapping[str, Any] | None) -> None:
        await asyncio.sleep(self.behaviour.operation_seconds)
        _fail_if(fails)
        await self._scale(pool, 0)
        del self.by_name[pool.name]

    async def _give_up(self, pool: Pool, fails: Mapping[str, Any] | None) -> None:
        await asyncio.sleep(self.behaviour.operation_seconds)
        _fail_if(fails)
        pool.enter("Canceled")

    async def _scale(self, pool: Pool, count: int) -> None:
        """As many machines as that. One is noted before it starts: a pool that goes meanwhile takes it along."""
        for index in range(len(pool.machines), count):
            machine = virtual_machine(pool.name, pool.body, node_resource_group=self.node_resource_group, index=index)
            pool.machines.append(machine)
            await self.machines.start(machine)
        while len(pool.machines) > count:
            await self.machines.stop(pool.machines[-1].name)
            pool.machines.pop()


async def _carried_out(work: Awaitable[None], pool: Pool, operation: Operation) -> None:
    """Follows the work to its end. A failed pool stays, and says why; an overridden operation is Canceled."""
    try:
        await work
    except asyncio.CancelledError:
        operation.end("Canceled")
        raise
    except OperationFailed as failed:
        _fail(pool, operation, failed.error)
    except (LocalClusterError, OSError) as broken:
        log.warning("agent pool %s: %s", pool.name, broken)
        _fail(pool, operation, {"code": "CreateVMSSAgentPoolFailed", "message": str(broken)})
    else:
        operation.end("Succeeded")


def _fail(pool: Pool, operation: Operation, error: dict[str, Any]) -> None:
    operation.end("Failed", error)
    pool.properties["status"] = {"provisioningError": error}
    pool.enter("Failed")


def _fail_if(fails: Mapping[str, Any] | None) -> None:
    if fails is not None:
        raise OperationFailed(fails)


def drain_failure(pool: Pool) -> dict[str, Any]:
    """The end of a deletion that a disruption budget forbids (PodDrainFailure in the pages of AKS)."""
    node = pool.machines[0].name if pool.machines else pool.name
    told = f"Drain node {node} failed when evicting pods: Too Many Requests. This is often caused by a restrictive"
    more = "Pod Disruption Budget (PDB) policy. See https://aka.ms/aks/debugdrainfailures."
    cause = "Original error: Cannot evict pod as it would violate the pod's disruption budget."
    return {"code": "PodDrainFailure", "message": f"{told} {more} {cause}"}


def _with_spot_marks(properties: dict[str, Any]) -> dict[str, Any]:
    """AKS labels and taints the nodes of a spot pool by itself."""
    if properties.get("scaleSetPriority") != "Spot":
        return properties
    taint = f"{SPOT_KEY}=spot:NoSchedule"
    taints = [each for each in properties.get("nodeTaints") or () if each != taint]
    return {
        **properties,
        "nodeLabels": {**(properties.get("nodeLabels") or {}), SPOT_KEY: "spot"},
        "nodeTaints": [*taints, taint],
    }
