"""The agent-pool API of AKS over HTTP: LIST, GET, PUT, DELETE, abort, and the operations that follow from them."""

from json import JSONDecodeError
from typing import Any

from aiohttp import web

from local_cluster.azure_answers import (
    busy,
    busy_pool,
    changed,
    cluster_id,
    error,
    follow,
    missing,
    no_cluster,
    whole,
)
from local_cluster.azure_behaviour import Behaviour
from local_cluster.azure_compute import refused
from local_cluster.azure_front_door import FAILS, Handler
from local_cluster.azure_pools import BUSY, Pool, Pools
from local_cluster.azure_rules import changes, mistakes

SUBSCRIPTION = "/subscriptions/{subscription}"
GROUP = SUBSCRIPTION + "/{groups:[rR]esource[gG]roups}/{group}"
ALL = GROUP + "/providers/Microsoft.ContainerService/managedClusters/{cluster}/agentPools"
ONE = ALL + "/{name}"
OPERATIONS = SUBSCRIPTION + "/providers/Microsoft.ContainerService/locations/{location}"
IGNORE_BUDGETS = "ignore-pod-disruption-budget"


class AgentPoolApi:
    """Requests about the agent pools of one cluster."""

    def __init__(self, pools: Pools, behaviour: Behaviour) -> None:
        self._pools, self._behaviour = pools, behaviour

    def routes(self) -> list[web.RouteDef]:
        """Where each request goes."""
        return [
            web.get(ALL, self._of_the_cluster(self._list)),
            web.get(ONE, self._of_the_cluster(self._get)),
            web.put(ONE, self._of_the_cluster(self._put)),
            web.delete(ONE, self._of_the_cluster(self._delete)),
            web.post(ONE + "/abort", self._of_the_cluster(self._abort)),
            web.get(OPERATIONS + "/operations/{id}", self._operation),
            web.get(OPERATIONS + "/operationresults/{id}", self._result),
        ]

    def _of_the_cluster(self, handler: Handler) -> Handler:
        """The handler, where the cluster is one that exists and does nothing else that writes to its pools wait for."""

        async def handle(request: web.Request) -> web.StreamResponse:
            only, going_on = self._behaviour.cluster, self._behaviour.cluster_operation
            if only and request.match_info["cluster"].lower() != only.lower():
                return no_cluster(request)
            if going_on and request.method in ("PUT", "DELETE"):
                return busy(f"operation ({going_on})")
            return await handler(request)

        return handle

    async def _list(self, request: web.Request) -> web.Response:
        found = [pool.body for _, pool in sorted(self._pools.by_name.items())]
        size, start = self._behaviour.page_size, request.query.get("$skipToken", "")
        page = [body for body in found if body["name"] >= start]
        if not size or len(page) <= size:
            return web.json_response({"value": page})
        query = {"api-version": request.query["api-version"], "$skipToken": page[size]["name"]}
        link = request.url.with_query(query)
        return web.json_response({"value": page[:size], "nextLink": str(link)})

    async def _get(self, request: web.Request) -> web.Response:
        pool = self._named(request)
        return missing(request.match_info["name"]) if pool is None else whole(pool, 200)

    async def _put(self, request: web.Request) -> web.Response:
        try:
            wanted = (await request.json())["properties"]
        except (JSONDecodeError, KeyError, TypeError):
            wanted = None
        if not isinstance(wanted, dict):
            return error(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized.")
        if (mistake := next(mistakes(request.match_info["name"], wanted), None)) is not None:
            return error(*mistake)
        pool = self._named(request)
        return self._create(request, wanted) if pool is None else self._update(request, pool, wanted)

    def _create(self, request: web.Request, wanted: dict[str, Any]) -> web.Response:
        name = request.match_info["name"]
        if request.headers.get("If-Match"):
            return changed(f"Agent pool {name} does not exist.")
        if not isinstance(wanted.get("vmSize"), str):
            return error(400, "InvalidParameter", "Required parameter agentPoolProfile.vmSize is missing (null).")
        most = self._behaviour.most_pools
        if len(self._pools.by_name) >= most:
            return error(400, "MaxAgentPoolCountReached", f"The cluster has {most} agent pools already.")
        others = [pool.properties for pool in self._pools.by_name.values()]
        if (no := refused(self._behaviour, others, wanted)) is not None:
            return error(*no)
        pool = self._pools.create(name, cluster=cluster_id(request), wanted=wanted, fails=request.get(FAILS))
        return whole(pool, 201, **self._follow(request, pool))

    def _update(self, request: web.Request, pool: Pool, wanted: dict[str, Any]) -> web.Response:
        if request.headers.get("If-None-Match") == "*":
            return changed(f"Agent pool {pool.name} exists already.")
        if _other_etag(request, pool):
            return changed(f"The etag of agent pool {pool.name} is another.")
        if pool.state in BUSY:
            return busy_pool(pool)
        if (no := changes(pool.properties, wanted)) is not None:
            return error(*no)
        self._pools.update(pool, wanted, fails=request.get(FAILS))
        return whole(pool, 200, **self._follow(request, pool))

    async def _delete(self, request: web.Request) -> web.Response:
        pool = self._named(request)
        if pool is None:
            return web.Response(status=204)
        if _other_etag(request, pool):
            return changed(f"The etag of agent pool {pool.name} is another.")
        if pool.state == "Creating" and self._behaviour.delete_while_creating == "conflicts":
            return busy_pool(pool)
        ignored = request.query.get(IGNORE_BUDGETS, "").lower() == "true"
        self._pools.delete(pool, ignore_budgets=ignored, fails=request.get(FAILS))
        return web.Response(status=202, headers=self._follow(request, pool))

    async def _abort(self, request: web.Request) -> web.Response:
        pool = self._named(request)
        if pool is None:
            return missing(request.match_info["name"])
        if pool.state not in BUSY:
            told = f"The latest operation of agent pool {pool.name} has completed already and cannot be aborted."
            return error(409, "Conflict", told)
        if pool.state != "Canceling":
            self._pools.abort(pool, fails=request.get(FAILS))
        return web.Response(status=202, headers=self._follow(request, pool))

    async def _operation(self, request: web.Request) -> web.Response:
        operation = self._pools.operations.get(request.match_info["id"])
        if operation is None:
            return error(404, "NotFound", "The operation is not known.")
        return web.json_response(operation.told())

    async def _result(self, request: web.Request) -> web.Response:
        """What a client that goes by ``Location`` asks: 202 until the operation has ended."""
        operation = self._pools.operations.get(request.match_info["id"])
        if operation is None:
            return error(404, "NotFound", "The operation is not known.")
        return web.Response(status=202 if operation.status == "InProgress" else 204)

    def _follow(self, request: web.Request, pool: Pool) -> dict[str, str]:
        return follow(request, pool, location=self._behaviour.location)

    def _named(self, request: web.Request) -> Pool | None:
        return self._pools.by_name.get(request.match_info["name"])


def _other_etag(request: web.Request, pool: Pool) -> bool:
    wanted = request.headers.get("If-Match", "").strip('"')
    return wanted not in ("", "*", pool.etag)
