"""Azure's stand-in: the agent-pool API of AKS over HTTP, whose virtual machines are whatever it is given.

It answers as Azure Resource Manager does: 201 and 200 for PUT, 202 and 204 for DELETE, operations to be asked after,
etags that change with every change, a provisioningState that takes its time, and Azure's wording for what it refuses.
The control routes under /control are for tests: boot time, faults, and the history of every call.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from aiohttp import web

from local_cluster.azure_faults import Fault, Faults, parse_fault
from local_cluster.azure_machines import RecordOnly, VirtualMachine, VirtualMachines, virtual_machine

POOLS = (
    "/subscriptions/{subscription}/resource{groups:[gG]roups}/{group}/providers/Microsoft.ContainerService"
    "/managedClusters/{cluster}/agentPools"
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
MOST_POOLS = 100
BODY_IN_HISTORY = 4096


@dataclass(slots=True)
class Pool:
    """One agent pool: its REST body, how often it changed, and what is being done to it."""

    name: str
    body: dict[str, Any]
    generation: int = 0
    operation: asyncio.Task[None] | None = None
    machine: VirtualMachine | None = None

    @property
    def state(self) -> str:
        """provisioningState."""
        return str(self.body["properties"]["provisioningState"])

    def enter(self, state: str) -> None:
        """A new state is a new etag."""
        self.generation += 1
        self.body["properties"]["provisioningState"] = state
        self.body["properties"]["eTag"] = self.etag

    @property
    def etag(self) -> str:
        """Another one after every change."""
        return sha256(f"{self.name}/{id(self)}/{self.generation}".encode()).hexdigest()[:32]


@dataclass(slots=True)
class Operation:
    """A long-running operation as its status URL tells it."""

    status: str = "InProgress"
    error: dict[str, Any] | None = None


@dataclass(slots=True)
class AzureStandIn:
    """One subscription with one cluster. All state is in memory."""

    machines: VirtualMachines = field(default_factory=RecordOnly)
    boot_seconds: float = 5.0
    node_resource_group: str = "MC_local_local_local"
    pools: dict[str, Pool] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)

    def app(self) -> web.Application:
        """The HTTP server."""
        app = web.Application(middlewares=[self._recorded, self._guarded])
        one = POOLS + "/{name}"
        app.add_routes(
            [
                web.get(POOLS, self._list),
                web.get(one, self._get),
                web.put(one, self._put),
                web.delete(one, self._delete),
                web.get("/operations/{id}", self._operation),
                web.get("/control/history", self._history),
                web.delete("/control/history", self._forget_history),
                web.get("/control/pools", self._all),
                web.put("/control/boot", self._set_boot),
                web.post("/control/faults", self._add_fault),
                web.delete("/control/faults", self._heal),
            ]
        )
        app.on_cleanup.append(self._stop)
        return app

    # What every request goes through

    @web.middleware
    async def _recorded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keeps what was asked and answered; the control routes are not part of the story."""
        if request.path.startswith("/control"):
            return await handler(request)
        entry = {
            "time": time.time(),
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "caller": request.headers.get("User-Agent", ""),
            "body": (await request.text())[:BODY_IN_HISTORY],
            "status": 0,
        }
        self.history.append(entry)
        response = await handler(request)
        entry["status"] = response.status
        return response

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What ARM's front door checks, then the faults that a test asked for."""
        if request.path.startswith("/control"):
            return await handler(request)
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            return _error(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        if "api-version" not in request.query and not request.path.startswith("/operations"):
            return _error(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        fault = self.faults.matching(request.method, request.path)
        return await handler(request) if fault is None else await _broken(fault, request, handler)

    # Agent pools

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"value": [pool.body for _, pool in sorted(self.pools.items())]})

    async def _get(self, request: web.Request) -> web.Response:
        pool = self.pools.get(request.match_info["name"])
        return _missing(request.match_info["name"]) if pool is None else _whole(pool, 200)

    async def _put(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not NAME.fullmatch(name):
            told = "It must match ^[a-z][a-z0-9]{0,11}$."
            return _error(400, "InvalidParameter", f"The value of parameter agentPool.name is invalid: {name}. {told}")
        pool = self.pools.get(name)
        if pool is not None:
            return self._update(request, pool)
        if len(self.pools) >= MOST_POOLS:
            return _error(400, "MaxAgentPoolCountReached", f"The cluster has {MOST_POOLS} agent pools already.")
        body = await request.json()
        pool = self.pools[name] = Pool(name, self._body(request, name, body))
        pool.enter("Creating")
        operation = self._begin(pool, self._create(pool))
        return _whole(pool, 201, **self._follow(request, operation))

    def _update(self, request: web.Request, pool: Pool) -> web.Response:
        if request.headers.get("If-None-Match") == "*":
            return _error(412, "PreconditionFailed", f"Agent pool {pool.name} exists already.")
        if (busy := _busy(pool)) is not None:
            return busy
        return _error(400, "PropertyChangeNotAllowed", f"Changing a property of agent pool {pool.name} is not allowed.")

    async def _delete(self, request: web.Request) -> web.Response:
        pool = self.pools.get(request.match_info["name"])
        if pool is None:
            return web.Response(status=204)
        wanted = request.headers.get("If-Match", "").strip('"')
        if wanted and wanted != pool.etag:
            return _error(412, "PreconditionFailed", f"The etag of agent pool {pool.name} is not {wanted}.")
        if pool.state != "Deleting":
            pool.enter("Deleting")
            operation = self._begin(pool, self._remove(pool))
        else:
            operation = pool.name
        return web.Response(status=202, headers=self._follow(request, operation))

    def _body(self, request: web.Request, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        where = request.match_info
        return {
            # AKS answers the ids of pools with "resourcegroups" in lower case.
            "id": f"/subscriptions/{where['subscription']}/resourcegroups/{where['group']}/providers"
            f"/Microsoft.ContainerService/managedClusters/{where['cluster']}/agentPools/{name}",
            "name": name,
            "type": "Microsoft.ContainerService/managedClusters/agentPools",
            "properties": {
                "mode": "User",
                "osType": "Linux",
                "osSKU": "Ubuntu",
                "type": "VirtualMachineScaleSets",
                "scaleSetPriority": "Regular",
                "powerState": {"code": "Running"},
                **wanted.get("properties", {}),
            },
        }

    # What takes its time

    def _begin(self, pool: Pool, work: Awaitable[None]) -> str:
        """Starts an operation; one that was under way on the pool is overridden, as Azure does."""
        if pool.operation is not None:
            pool.operation.cancel()
        identity = sha256(f"{pool.name}/{time.time_ns()}".encode()).hexdigest()[:16]
        operation = self.operations[identity] = Operation()
        pool.operation = asyncio.create_task(_carried_out(work, operation))
        return identity

    async def _create(self, pool: Pool) -> None:
        await asyncio.sleep(self.boot_seconds)
        pool.machine = virtual_machine(pool.name, pool.body, node_resource_group=self.node_resource_group)
        await self.machines.start(pool.machine)
        pool.enter("Succeeded")

    async def _remove(self, pool: Pool) -> None:
        if pool.machine is not None:
            await self.machines.stop(pool.machine.name)
        del self.pools[pool.name]

    async def _operation(self, request: web.Request) -> web.Response:
        operation = self.operations.get(request.match_info["id"])
        if operation is None:
            return _error(404, "NotFound", "The operation is not known.")
        told = {"name": request.match_info["id"], "status": operation.status}
        return web.json_response({**told, **({"error": operation.error} if operation.error else {})})

    def _follow(self, request: web.Request, operation: str) -> dict[str, str]:
        url = f"{request.scheme}://{request.host}/operations/{operation}?api-version=2017-08-31"
        return {"Azure-AsyncOperation": url, "Location": url, "Retry-After": "10"}

    async def _stop(self, _: web.Application) -> None:
        under_way = [pool.operation for pool in self.pools.values() if pool.operation is not None]
        for operation in under_way:
            operation.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    # For tests

    async def _history(self, _: web.Request) -> web.Response:
        return web.json_response(self.history)

    async def _forget_history(self, _: web.Request) -> web.Response:
        self.history.clear()
        return web.Response(status=204)

    async def _all(self, _: web.Request) -> web.Response:
        return web.json_response([pool.body for _, pool in sorted(self.pools.items())])

    async def _set_boot(self, request: web.Request) -> web.Response:
        self.boot_seconds = float((await request.json())["seconds"])
        return web.Response(status=204)

    async def _add_fault(self, request: web.Request) -> web.Response:
        self.faults.add(parse_fault(await request.json()))
        return web.Response(status=204)

    async def _heal(self, _: web.Request) -> web.Response:
        self.faults.heal()
        return web.Response(status=204)


async def _carried_out(work: Awaitable[None], operation: Operation) -> None:
    """Follows the work to its end; a cancelled one says what Azure says of an overridden operation."""
    try:
        await work
    except asyncio.CancelledError:
        operation.status = "Canceled"
        raise
    operation.status = "Succeeded"


async def _broken(fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
    """The fault in place of the answer, or of the connection."""
    await asyncio.sleep(fault.delay)
    if fault.after_commit:
        await handler(request)
    if fault.reset:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)  # nobody reads it: the connection is gone
    return web.json_response(fault.body, status=fault.status, headers=fault.headers)


def _busy(pool: Pool) -> web.Response | None:
    if pool.state not in ("Creating", "Updating", "Deleting"):
        return None
    told = f"Another agentpool operation ({pool.name} - {pool.state}) is in progress, please wait for it."
    return _error(409, "OperationNotAllowed", f"{told} See https://aka.ms/aks-pending-operation for details.")


def _missing(name: str) -> web.Response:
    return _error(404, "NotFound", f"Agent Pool not found. Agent pool name: {name}")


def _whole(pool: Pool, status: int, **headers: str) -> web.Response:
    return web.json_response(pool.body, status=status, headers={"ETag": f'"{pool.etag}"', **headers})


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


def main() -> None:
    """Record-only, alone: ``python -m local_cluster.azure --port N``."""
    parser = argparse.ArgumentParser(prog="python -m local_cluster.azure", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--boot-seconds", type=float, default=5.0)
    asked = parser.parse_args()
    web.run_app(AzureStandIn(boot_seconds=asked.boot_seconds).app(), host="127.0.0.1", port=asked.port, print=None)


if __name__ == "__main__":
    main()
