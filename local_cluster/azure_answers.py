"""How Azure's stand-in words its answers: pools, where to ask after an operation, and what Azure refuses."""

from aiohttp import web

from local_cluster.azure_pools import Pool


def whole(pool: Pool, status: int, **headers: str) -> web.Response:
    """A pool, with its etag."""
    return web.json_response(pool.body, status=status, headers={"ETag": f'"{pool.etag}"', **headers})


def follow(request: web.Request, pool: Pool) -> dict[str, str]:
    """The headers that say where to ask after the operation under way on a pool."""
    url = f"{request.scheme}://{request.host}/operations/{pool.operation.name}?api-version=2017-08-31"
    return {"Azure-AsyncOperation": url, "Location": url, "Retry-After": "10"}


def cluster_id(request: web.Request) -> str:
    """The id of the cluster; AKS answers the ids of pools with "resourcegroups" in lower case."""
    where = request.match_info
    return (
        f"/subscriptions/{where['subscription']}/resourcegroups/{where['group']}/providers"
        f"/Microsoft.ContainerService/managedClusters/{where['cluster']}"
    )


def missing(name: str) -> web.Response:
    """404 in the words of AKS."""
    return error(404, "NotFound", f"Agent Pool not found. Agent pool name: {name}")


def busy(pool: Pool) -> web.Response:
    """The conflict that an operation under way is."""
    told = f"Another agentpool operation ({pool.name} - {pool.state}) is in progress, please wait for it."
    link = "See https://aka.ms/aks-pending-operation for details."
    return error(409, "OperationNotAllowed", f"Operation is not allowed: {told} {link}")


def changed(message: str) -> web.Response:
    """A condition of the request does not hold."""
    return error(412, "PreconditionFailed", message)


def error(status: int, code: str, message: str) -> web.Response:
    """An error as Azure Resource Manager writes it."""
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
