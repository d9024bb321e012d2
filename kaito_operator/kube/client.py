"""The only HTTP to Kubernetes: a few verbs over raw dicts, with connection and credentials of ``kubernetes.aio``."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import getproxies

import aiohttp
import yaml
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from kaito_operator.api.kinds import BY_NAME, Kind
from kaito_operator.api.labels import WORKSPACE_MANAGER
from kaito_operator.kube import errors
from kaito_operator.plan import Manifest, Ref, Selection

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
TIMEOUT_SECONDS = 20.0
PAGE = 500
"""Objects a LIST asks for at once, so that a large cluster does not arrive as one answer."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A LIST's answer; the items carry apiVersion and kind, which the API server leaves out of lists."""

    items: list[Manifest]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Connection:
    """What another client needs to speak to the same API server as the same user, as of now."""

    server: str
    ca_path: str | None
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    insecure: bool
    """Whether the server's certificate is not verified, as the kubeconfig asks."""
    server_name: str | None = None
    """The name that the server's certificate must have, where it is not that of its address (tls-server-name)."""


Counted = Callable[[str, str, int], None]
"""Takes verb, plural and status of each request, for the metrics."""
MayWrite = Callable[[], bool]
"""Whether this process may change anything now; asked right before each request that would."""


class Kube:
    """A connection to one API server. Every method raises the errors of ``kube.errors``."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        field_manager: str = WORKSPACE_MANAGER,
        counted: Counted = lambda *_: None,
        may_write: MayWrite = lambda: True,
    ) -> None:
        # The client looks for proxies and for ~/.netrc in a thread before each request; ours are none of the latter's.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
        self._api = ApiClient(configuration)
        self.field_manager = field_manager
        self._may_write = may_write
        self._counted = counted
        self._plainly = {"fieldManager": field_manager}
        self._by_force = {"fieldManager": field_manager, "force": "true"}

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        *,
        field_manager: str = WORKSPACE_MANAGER,
        context: str | None = None,
        counted: Counted = lambda *_: None,
        may_write: MayWrite = lambda: True,
    ) -> "Kube":
        """By a kubeconfig file, or by the pod's own service account, whose token is read anew as it rotates.

        ``context`` is one of the file's; without it its current one is meant.
        ``field_manager`` owns the fields that are applied. No two controllers may share one (decision 0003).
        """
        configuration = Configuration()
        try:
            if kubeconfig is None and context is None and _in_a_pod():
                kube_config.load_incluster_config(client_configuration=configuration)
            else:
                await kube_config.load_kube_config(
                    config_file=kubeconfig, context=context, client_configuration=configuration
                )
        except (kube_config.ConfigException, OSError, TypeError, AttributeError, yaml.YAMLError) as unknown:
            # The library reads the file without judging its shape: an empty one is a TypeError.
            raise errors.Unavailable(0, "NoKubeconfig", f"{kubeconfig or 'KUBECONFIG'}: {unknown}") from unknown
        return cls(configuration, field_manager=field_manager, counted=counted, may_write=may_write)

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()

    def fence(self) -> None:
        """Raises NotLeading unless this process may write now: one that was suspended wakes up on another's watch."""
        if not self._may_write():
            raise errors.NotLeading(0, "NotLeading", "the Lease is not ours for sure; nothing is written")

    async def connection(self) -> Connection:
        """Address and credentials, the rotating token read anew."""
        configuration = self._api.configuration
        headers: dict[str, str] = {}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "/", "GET", None)
        _, _, token = headers.get("authorization", "").partition(" ")
        return Connection(
            configuration.host,
            configuration.ssl_ca_cert,
            token or None,
            configuration.cert_file,
            configuration.key_file,
            not configuration.verify_ssl,
            configuration.tls_server_name,
        )

    async def get(self, ref: Ref) -> Manifest:
        """The live object."""
        return await self._request("GET", path_of(ref), plural=_kind(ref).plural)

    async def select(self, selection: Selection) -> Listed:
        """All objects with these labels and fields, in all namespaces."""
        kind = BY_NAME[selection.api_version, selection.kind]
        return await self.list(kind, labels=_selector(selection.labels), fields=_selector(selection.fields))

    async def list(self, kind: Kind, *, labels: str = "", fields: str = "", namespace: str = "") -> Listed:
        """All objects of a kind that carry ``labels`` and have ``fields`` (selectors both), page by page."""
        items: list[Manifest] = []
        asked = {"labelSelector": labels, "fieldSelector": fields}
        query = {"limit": str(PAGE), **{name: value for name, value in asked.items() if value}}
        while True:
            page = await self._request("GET", collection(kind, namespace), query=query, plural=kind.plural, verb="LIST")
            items += ({"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page["items"])
            more = page["metadata"].get("continue")
            if not more:
                return Listed(items, page["metadata"]["resourceVersion"])
            query = {**query, "continue": more}

    async def apply(self, manifest: Manifest, *, uid: str | None = None) -> Manifest:
        """Server-side apply under our one manager. With ``uid`` it only updates: see decision 0003."""
        body = manifest if uid is None else {**manifest, "metadata": {**manifest["metadata"], "uid": uid}}
        ref = Ref.of(manifest)
        return await self._request(
            "PATCH", path_of(ref), body=body, query=self._by_force, content=APPLY, plural=_kind(ref).plural
        )

    async def apply_status(self, ref: Ref, *, uid: str, status: Manifest, version: str = "") -> Manifest:
        """Server-side apply of the status subresource, update-only; Conflict if ``version`` is given and not live."""
        meta = {
            "name": ref.name,
            "uid": uid,
            **({"namespace": ref.namespace} if ref.namespace else {}),
            **({"resourceVersion": version} if version else {}),
        }
        body = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": meta, "status": status}
        path = f"{path_of(ref)}/status"
        return await self._request(
            "PATCH", path, body=body, query=self._by_force, content=APPLY, plural=_kind(ref).plural
        )

    async def patch_json(self, ref: Ref, operations: Sequence[Mapping[str, Any]]) -> Manifest:
        """JSON patch (RFC 6902); a failed ``test`` operation is an Invalid."""
        path = path_of(ref)
        return await self._request(
            "PATCH", path, body=list(operations), query=self._plainly, content=JSON_PATCH, plural=_kind(ref).plural
        )

    async def create(self, manifest: Manifest) -> Manifest:
        """POST; Conflict if the name is taken."""
        ref = Ref.of(manifest)
        kind = _kind(ref)
        path = collection(kind, ref.namespace)
        return await self._request("POST", path, body=manifest, query=self._plainly, plural=kind.plural)

    async def replace(self, manifest: Manifest) -> Manifest:
        """PUT; Conflict if metadata.resourceVersion is not the live one."""
        ref = Ref.of(manifest)
        return await self._request("PUT", path_of(ref), body=manifest, query=self._plainly, plural=_kind(ref).plural)

    async def evict(self, pod: Ref, *, uid: str) -> None:
        """Asks for the eviction of exactly this pod; TooManyRequests if a disruption budget has no room for it."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        await self._request("POST", f"{path_of(pod)}/eviction", body=body, plural="pods/eviction")

    async def delete(self, ref: Ref, *, uid: str, grace_seconds: int | None = None) -> Manifest | None:
        """Asks for the deletion of exactly this object, its dependents in the background.

        Answers the object if it lives on for now (finalizers, grace), None if it is gone.
        """
        grace = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background", **grace}
        answer = await self._request("DELETE", path_of(ref), body=body, plural=_kind(ref).plural)
        lives_on = answer.get("kind") == ref.kind and "deletionTimestamp" in answer["metadata"]
        return answer if lives_on else None

    async def proxy(
        self, service: Ref, *, port: int, path: str, body: Mapping[str, Any], timeout: float
    ) -> dict[str, Any]:
        """POSTs JSON to a Service through the API server, from wherever the API server can be reached."""
        at = f"/api/v1/namespaces/{service.namespace}/services/{service.name}:{port}/proxy/{path.lstrip('/')}"
        return await self._request("POST", at, body=body, plural="services/proxy", timeout=timeout)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        plural: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = JSON,
        verb: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        if method != "GET":
            self.fence()
        headers = {"Accept": JSON, "Content-Type": content, "User-Agent": self.field_manager}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            answer = await self._api.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=limit
            )
            payload = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as lost:
            self._counted(verb or method, plural, 0)
            raise errors.Unavailable(0, "NoAnswer", f"{method} {path}: {lost or type(lost).__name__}") from lost
        self._counted(verb or method, plural, answer.status)
        if answer.status >= 300:
            raise errors.of(answer.status, payload, answer.headers)
        return _parsed(payload, f"{method} {path}")


def _parsed(payload: bytes, what: str) -> dict[str, Any]:
    """An answer that was cut off is no answer."""
    try:
        parsed: dict[str, Any] = json.loads(payload)
    except ValueError as broken:
        raise errors.Unavailable(0, "BrokenAnswer", f"{what}: {broken}") from broken
    return parsed


def _in_a_pod() -> bool:
    return Path(kube_config.incluster_config.SERVICE_TOKEN_FILENAME).exists()


def _selector(wanted: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(wanted.items()))


def _kind(ref: Ref) -> Kind:
    return BY_NAME[ref.api_version, ref.kind]


def collection(kind: Kind, namespace: str = "") -> str:
    """The path of all objects of a kind, in one namespace or in all."""
    root = f"/apis/{kind.api_version}" if "/" in kind.api_version else f"/api/{kind.api_version}"
    return f"{root}/namespaces/{quote(namespace)}/{kind.plural}" if namespace else f"{root}/{kind.plural}"


def path_of(ref: Ref) -> str:
    """The path of one object."""
    return f"{collection(_kind(ref), ref.namespace)}/{quote(ref.name)}"
