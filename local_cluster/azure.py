"""Azure's stand-in: the agent-pool API of AKS over HTTP, whose virtual machines are whatever it is given.

It answers as Azure Resource Manager does: 201 and 200 for PUT, 202 and 204 for DELETE, operations to be asked after,
etags that change with every change, a provisioningState that takes its time, empty buckets, and Azure's wording for
what it refuses. Under /control it takes settings and faults, and tells every call. State is in memory only.
"""

from collections.abc import Iterable
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from local_cluster.azure_agent_pools import SUBSCRIPTION, AgentPoolApi
from local_cluster.azure_behaviour import Behaviour
from local_cluster.azure_compute import skus, usages
from local_cluster.azure_control import Control
from local_cluster.azure_faults import Faults, one_line
from local_cluster.azure_front_door import FrontDoor
from local_cluster.azure_machines import RecordOnly, VirtualMachines
from local_cluster.azure_pools import Pools
from local_cluster.errors import LocalClusterError

COMPUTE = SUBSCRIPTION + "/providers/Microsoft.Compute"


class AzureStandIn:
    """One subscription with one cluster."""

    def __init__(
        self,
        machines: VirtualMachines | None = None,
        *,
        node_resource_group: str = "MC_local_local_local",
        **settings: Any,
    ) -> None:
        """Without ``machines`` they are only written down. ``settings``: of ``Behaviour``."""
        self.behaviour = Behaviour(**settings)
        self.pools = Pools(machines or RecordOnly(), self.behaviour, node_resource_group)
        self.door = FrontDoor(self.behaviour)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every call so far."""
        return self.door.history

    @property
    def faults(self) -> Faults:
        """The faults in force."""
        return self.door.faults

    def app(self) -> web.Application:
        """The HTTP server."""
        app = web.Application(middlewares=self.door.middlewares())
        app.add_routes(AgentPoolApi(self.pools, self.behaviour).routes())
        app.add_routes(Control(self.pools, self.behaviour, self.door).routes())
        app.add_routes(
            [web.get(COMPUTE + "/locations/{location}/usages", self._usages), web.get(COMPUTE + "/skus", self._skus)]
        )
        app.on_cleanup.append(self._stop)
        return app

    async def _usages(self, request: web.Request) -> web.Response:
        if not self._is_here(request.match_info["location"]):
            return _value([])
        return _value(usages(self.behaviour, [pool.properties for pool in self.pools.by_name.values()]))

    async def _skus(self, request: web.Request) -> web.Response:
        wanted = request.query.get("$filter", "").removeprefix("location eq ").strip("'")
        return _value(skus(self.behaviour) if not wanted or self._is_here(wanted) else [])

    def _is_here(self, location: str) -> bool:
        return location.lower() == self.behaviour.location.lower()

    async def _stop(self, _: web.Application) -> None:
        await self.pools.stop()


def _value(found: Iterable[dict[str, Any]]) -> web.Response:
    return web.json_response({"value": list(found)})


def serve_alone(port: int, *, boot_seconds: float) -> int:
    """Record-only, until it is told to stop: what ``python -m local_cluster azure`` does. Raises LocalClusterError."""
    try:
        stand_in = AzureStandIn(boot_seconds=boot_seconds)
        web.run_app(stand_in.app(), host="127.0.0.1", port=port)
    except ValidationError as wrong:
        raise LocalClusterError(one_line(wrong)) from wrong
    except (OSError, OverflowError) as taken:
        raise LocalClusterError(f"port {port} cannot be had: {taken}; take another with --port") from taken
    return 0
