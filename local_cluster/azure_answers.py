"""How Azure's stand-in words its answers: pools, where to ask after an operation, and what Azure refuses."""

from aiohttp import web

from local_cluster.azure_pools import Pool

PROVIDER = "/providers/Microsoft.ContainerService"
ASYNC_VERSION = "2017-08-31"
"""The api-version that AKS puts into the addresses of operations."""


def whole(pool: Pool, status: int, **headers: str) -> web.Response:
    """A pool, with its etag."""
    return web.json_response(pool.body, status=status, headers={"ETag": f'"{pool.etag}"', **headers})


def follow(request: web.Request, pool: Pool, *, location: str) -> dict[str, str]:
    """The headers that say where to ask after the operation under way on a pool."""
    subscription = request.match_info["subscription"]
    where = f"{request.scheme}://{request.host}/subscriptions/{subscription}{PROVIDER}/locations/{location}"
    name = f"{pool.operation.name}?api-version={ASYNC_VERSION}"
    return {
        "Azure-AsyncOperation": f"{where}/operations/{name}",
        "Location": f"{where}/operationresults/{name}",
        "Retry-After": "10",
    }


def cluster_id(request: web.Request) -> str:
    """The id of the cluster; AKS answers the ids of pools with "resourcegroups" in lower case."""
    where = request.match_info
    return (
        f"/subscriptions/{where['subscription']}/resourcegroups/{where['group']}{PROVIDER}"
        f"/managedClusters/{where['cluster']}"
    )


def missing(name: str) -> web.Response:
    """404 in the words of AKS."""
    return error(404, "NotFound", f"Agent Pool not found. Agent pool name: {name}")


def no_cluster(request: web.Request) -> web.Response:
    """404 in the words of Azure Resource Manager."""
    where = request.match_info
    told = f"The Resource 'Microsoft.ContainerService/managedClusters/{where['cluster']}' under resource group"
    link = "For more details please go to https://aka.ms/ARMResourceNotFoundFix"
    return error(404, "ResourceNotFound", f"{told} '{where['group']}' was not found. {link}")


def busy(what: str) -> web.Response:
    """The conflict that an operation under way is; ``what``: such as "agentpool operation (ws1 - Creating)"."""
    link = "See https://aka.ms/aks-pending-operation for details."
    told = f"Another {what} is in progress, please wait for it."
    return error(409, "OperationNotAllowed", f"Operation is not allowed: {told} {link}")


def busy_pool(pool: Pool) -> web.Response:
    """The same of an agent pool."""
    return busy(f"agentpool operation ({pool.name} - {pool.state})")


def changed(message: str) -> web.Response:
    """A condition of the request does not hold."""
    return error(412, "PreconditionFailed", message)


def throttled(handler: str, subscription: str, *, seconds: int) -> web.Response:
    """429 in the words of AKS ("Troubleshoot the Throttled error code")."""
    told = f"The {handler} request limit has been exceeded for SubID='{subscription}', please retry again in {seconds}"
    link = "For more information, please visit aka.ms/aks/throttling"
    return error(429, "Throttled", f"{told} seconds. {link}", headers={"Retry-After": str(seconds)})


def too_many(subscription: str, *, seconds: int) -> web.Response:
    """429 of the front door."""
    told = f"Number of requests for subscription '{subscription}' exceeded the limit for the current time interval."
    more = f"Please try again after '{seconds}' seconds."
    return error(429, "SubscriptionRequestsThrottled", f"{told} {more}", headers={"Retry-After": str(seconds)})


def error(status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    """An error as Azure Resource Manager writes it."""
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)
