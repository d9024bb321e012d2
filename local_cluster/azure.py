"""Azure's stand-in: the agent-pool API of AKS over HTTP, whose virtual machines are whatever it is given.

It answers as Azure Resource Manager does: 201 and 200 for PUT, 202 and 204 for DELETE, operations to be asked after,
etags that change with every change, a provisioningState that takes its time, and Azure's wording for what it refuses.
The routes under /control are for tests: boot time, faults, and the history of every call. State is in memory only.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from json import JSONDecodeError
from typing import Any

from aiohttp import web

from local_cluster.azure_answers import busy, changed, cluster_id, error, follow, missing, whole
from local_cluster.azure_faults import Fault, Faults, NoFault, parse_fault
from local_cluster.azure_machines import RecordOnly, VirtualMachines
from local_cluster.azure_pools import BUSY, IMMUTABLE, Pool, Pools

POOLS = (
    "/subscriptions/{subscription}/{groups:[rR]esource[gG]roups}/{group}/providers/Microsoft.ContainerService"
    "/managedClusters/{cluster}/agentPools"
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
MOST_POOLS = 100
BODY_IN_HISTORY = 4096
FAULT = web.RequestKey("fault", Fault)
"""The fault that strikes a request while it is carried out."""


class AzureStandIn:
    """One subscription with one cluster."""

    def __init__(
        self,
        machines: VirtualMachines | None = None,
        *,
        boot_seconds: float = 5.0,
        node_resource_group: str = "MC_local_local_local",
    ) -> None:
        """Without ``machines`` they are only written down."""
        self.pools = Pools(machines or RecordOnly(), boot_seconds, node_resource_group)
        self.history: list[dict[str, Any]] = []
        self.faults = Faults()

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
            "status": 0,  # stays where there was no answer
        }
        self.history.append(entry)
        response = await handler(request)
        entry["status"] = 0 if _is_cut(request) else response.status
        return response

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What ARM's front door checks, then the faults that a test asked for."""
        if request.path.startswith("/control"):
            return await handler(request)
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            return error(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        if "api-version" not in request.query:
            return error(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        fault = self.faults.matching(request.method, request.path)
        return await handler(request) if fault is None else await _struck(fault, request, handler)

    # Agent pools

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"value": self._bodies()})

    async def _get(self, request: web.Request) -> web.Response:
        pool = self._named(request)
        return missing(request.match_info["name"]) if pool is None else whole(pool, 200)

    async def _put(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not NAME.fullmatch(name):
            told = "It must match ^[a-z][a-z0-9]{0,11}$."
            return error(400, "InvalidParameter", f"The value of parameter agentPool.name is invalid: {name}. {told}")
        try:
            wanted = (await request.json())["properties"]
        except (JSONDecodeError, KeyError, TypeError):
            return error(400, "InvalidRequestContent", "The request content was invalid and could not be parsed.")
        pool = self._named(request)
        return self._create(request, wanted) if pool is None else self._update(request, pool, wanted)

    def _create(self, request: web.Request, wanted: dict[str, Any]) -> web.Response:
        if request.headers.get("If-Match"):
            return changed(f"Agent pool {request.match_info['name']} does not exist.")
        if "vmSize" not in wanted:
            return error(400, "InvalidParameter", "Required parameter agentPoolProfile.vmSize is missing (null).")
        if len(self.pools.by_name) >= MOST_POOLS:
            return error(400, "MaxAgentPoolCountReached", f"The cluster has {MOST_POOLS} agent pools already.")
        fault = request.get(FAULT)
        pool = self.pools.create(
            request.match_info["name"], cluster=cluster_id(request), wanted=wanted, fails=fault.fails if fault else None
        )
        return whole(pool, 201, **follow(request, pool))

    def _update(self, request: web.Request, pool: Pool, wanted: dict[str, Any]) -> web.Response:
        if request.headers.get("If-None-Match") == "*":
            return changed(f"Agent pool {pool.name} exists already.")
        if _other_etag(request, pool):
            return changed(f"The etag of agent pool {pool.name} is another.")
        if pool.state in BUSY:
            return busy(pool)
        for key in IMMUTABLE:
            if key in wanted and wanted[key] != pool.properties.get(key):
                return error(400, "PropertyChangeNotAllowed", f"Changing property 'properties.{key}' is not allowed.")
        self.pools.update(pool, wanted)
        return whole(pool, 200, **follow(request, pool))

    async def _delete(self, request: web.Request) -> web.Response:
        pool = self._named(request)
        if pool is None:
            return web.Response(status=204)
        if _other_etag(request, pool):
            return changed(f"The etag of agent pool {pool.name} is another.")
        self.pools.delete(pool)
        return web.Response(status=202, headers=follow(request, pool))

    async def _operation(self, request: web.Request) -> web.Response:
        operation = self.pools.operations.get(request.match_info["id"])
        if operation is None:
            return error(404, "NotFound", "The operation is not known.")
        return web.json_response(operation.told())

    def _named(self, request: web.Request) -> Pool | None:
        return self.pools.by_name.get(request.match_info["name"])

    def _bodies(self) -> list[dict[str, Any]]:
        return [pool.body for _, pool in sorted(self.pools.by_name.items())]

    async def _stop(self, _: web.Application) -> None:
        await self.pools.stop()

    # For tests

    async def _history(self, _: web.Request) -> web.Response:
        return web.json_response(self.history)

    async def _forget_history(self, _: web.Request) -> web.Response:
        self.history.clear()
        return web.Response(status=204)

    async def _all(self, _: web.Request) -> web.Response:
        return web.json_response(self._bodies())

    async def _set_boot(self, request: web.Request) -> web.Response:
        self.pools.boot_seconds = float((await request.json())["seconds"])
        return web.Response(status=204)

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self.faults.add(parse_fault(await request.json()))
        except NoFault as wrong:
            return web.Response(status=400, text=str(wrong))
        return web.Response(status=204)

    async def _heal(self, _: web.Request) -> web.Response:
        self.faults.heal()
        return web.Response(status=204)


async def _struck(fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
    """The fault in place of the answer, of the connection, or of the operation's end."""
    await asyncio.sleep(fault.delay)
    if fault.fails is not None:
        request[FAULT] = fault
        return await handler(request)
    if fault.after_commit:
        await handler(request)
    if fault.reset and request.transport is not None:
        request.transport.abort()
    return web.json_response(fault.body, status=fault.status, headers=fault.headers)


def _is_cut(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _other_etag(request: web.Request, pool: Pool) -> bool:
    wanted = request.headers.get("If-Match", "").strip('"')
    return wanted not in ("", "*", pool.etag)


def main() -> None:
    """Record-only, alone: ``python -m local_cluster.azure --port N``."""
    parser = argparse.ArgumentParser(prog="python -m local_cluster.azure", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--boot-seconds", type=float, default=5.0)
    asked = parser.parse_args()
    web.run_app(AzureStandIn(boot_seconds=asked.boot_seconds).app(), host="127.0.0.1", port=asked.port, print=None)


if __name__ == "__main__":
    main()
