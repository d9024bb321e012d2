"""Whether the cluster's own registry would give an image to a node: asked as containerd asks, answered in its words."""

import base64
from http import HTTPStatus
from typing import NoReturn

import aiohttp

from local_cluster.cri_server import CriError, NotFound, NotSupported

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
PATIENCE = aiohttp.ClientTimeout(total=20)


class NotPulled(CriError):
    """The registry does not give it."""


async def refuse(reference: str, *, host: str, user: str, password: str) -> NoReturn:
    """Raises why ``reference`` is not pulled; of a registry other than ``host`` only that it is not found.

    What the registry would give is refused as well, at last: containers here are processes among the machine's own
    directories, so the table of images is all that can run.
    """
    registry, _, rest = reference.partition("/")
    if registry != host:
        raise NotFound(f"{reference}: not found")
    url = f"http://{host}/v2/{_repository(rest)}/manifests/{_version(rest)}"
    failed = f'failed to pull and unpack image "{reference}": failed to resolve reference "{reference}"'
    try:
        status = await _status(url, user=user, password=password)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotPulled(f"{failed}: failed to do request: Head {url}: {error}") from error
    if status == 404:
        raise NotFound(f"{failed}: {reference}: not found")
    if status == 401 and not user:
        why = "pull access denied, repository does not exist or may require authorization: authorization failed"
        raise NotPulled(f"{failed}: {why}: no basic auth credentials")
    if status != 200:
        words = f"{status} {HTTPStatus(status).phrase}"
        raise NotPulled(f"{failed}: unexpected status from HEAD request to {url}: {words}")
    raise NotSupported(
        f"{reference} is in the registry, but the containers of this cluster are processes: it runs none"
    )


def _version(rest: str) -> str:
    """Tag or digest of what follows the registry."""
    name, _, digest = rest.partition("@")
    return digest or name.partition(":")[2] or "latest"


def _repository(rest: str) -> str:
    return rest.partition("@")[0].partition(":")[0]


async def _status(url: str, *, user: str, password: str) -> int:
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Accept": ", ".join(MANIFESTS), **({"Authorization": f"Basic {login}"} if user else {})}
    async with aiohttp.ClientSession(timeout=PATIENCE) as session, session.head(url, headers=headers) as answer:
        return answer.status
