"""The only calls to Azure: agent pools by ``azure-mgmt-containerservice``, one request each, no waiting inside the SDK.

``polling=False`` because the state of an operation is observed, and no retries, because the SDK would sleep through any
Retry-After: when to ask again is decided in ``errors.py``.
"""

import asyncio
import builtins
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from azure.core import MatchConditions
from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import AsyncHTTPPolicy
from azure.identity.aio import (
    AzureCliCredential,
    ChainedTokenCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from azure.mgmt.containerservice.aio import ContainerServiceClient
from azure.mgmt.containerservice.models import AgentPool as AksAgentPool

from kaito_operator.api.conditions import moment
from kaito_operator.gpu_provisioner.agent_pool import ASKED_TAG
from kaito_operator.gpu_provisioner.azure_prospects import Prospects
from kaito_operator.gpu_provisioner.cloud import STUCK, AgentPool, CloudError
from kaito_operator.gpu_provisioner.errors import Refusal, classified
from kaito_operator.kube.errors import retry_after
from kaito_operator.settings import ProvisionerSettings

REQUEST_SECONDS = 30.0
ONCE: dict[str, Any] = {"retry_total": 0, "retry_status": 0}


class AgentPools:
    """The agent pools of one AKS cluster: a ``Cloud``."""

    def __init__(
        self,
        client: ContainerServiceClient,
        credential: Any,
        *,
        resource_group: str,
        cluster: str,
        prospects: Prospects | None = None,
    ) -> None:
        self._prospects = prospects
        self._client, self._credential = client, credential
        self._pools = client.agent_pools
        self._where = (resource_group, cluster)

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        """PUT with If-None-Match: *."""
        call = self._pools.begin_create_or_update(
            *self._where, name, AksAgentPool(wanted), polling=False, match_condition=MatchConditions.IfMissing, **ONCE
        )
        poller = await _answer(call)
        return _pool(await _answer(poller.result()))

    async def delete(self, name: str, *, etag: str) -> None:
        """DELETE with If-Match; a pool that is gone already is no error."""
        condition = MatchConditions.IfNotModified if etag else None
        call = self._pools.begin_delete(
            *self._where, name, etag=etag or None, match_condition=condition, polling=False, **ONCE
        )
        try:
            await _answer(call)
        except _NotThere:
            return

    async def abort(self, name: str) -> None:
        """POST …/abort; an operation that has ended meanwhile is no error, nor is a pool that is gone."""
        call = self._pools.begin_abort_latest_operation(*self._where, name, polling=False, **ONCE)
        try:
            await _answer(call)
        except _NotThere:
            return

    async def get(self, name: str) -> AgentPool | None:
        """GET; None for 404."""
        try:
            return _pool(await _answer(self._pools.get(*self._where, name, **ONCE)))
        except _NotThere:
            return None

    async def list(self) -> "builtins.list[AgentPool]":
        """LIST, all pages."""
        pools: builtins.list[AgentPool] = await _answer(self._all())
        return pools

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        """From sizes and usages of the region; nothing is known where the region is not."""
        return None if self._prospects is None else await self._prospects.of(wanted)

    async def close(self) -> None:
        """Closes the connections, those for tokens too."""
        await self._client.close()
        await self._credential.close()

    async def _all(self) -> "builtins.list[AgentPool]":
        return [_pool(found) async for found in self._pools.list(*self._where, **ONCE)]


class _NotThere(Exception):
    """404: no such pool."""


async def _answer(call: Any) -> Any:
    """One request's answer within its time. Raises CloudError, or _NotThere."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await call
    except ResourceNotFoundError as missing:
        if _is_the_pool(missing):
            raise _NotThere from missing
        raise _refused(missing) from missing
    except ClientAuthenticationError as stranger:  # of ARM, or of a credential that found no token
        raise CloudError(classified(stranger.status_code or 401, _body(stranger))) from stranger
    except HttpResponseError as refused:
        raise _refused(refused) from refused
    except (AzureError, TimeoutError, OSError) as lost:
        raise CloudError(classified(0, {"message": str(lost) or "no answer in time"})) from lost


def _is_the_pool(missing: ResourceNotFoundError) -> bool:
    """Whether the pool is missing, and not the cluster, the resource group or the subscription."""
    code = missing.error.code if missing.error else ""
    return code in ("NotFound", "ResourceNotFound", "AgentPoolNotFound") and "gent" in str(missing.message)


def _refused(error: HttpResponseError) -> CloudError:
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    return CloudError(
        classified(error.status_code or 0, _body(error), retry_after=retry_after(headers.get("Retry-After")))
    )


def _body(error: HttpResponseError) -> dict[str, Any]:
    return {"message": str(error.message)} if error.error is None else _told(error.error)


def _told(error: Any) -> dict[str, Any]:
    """Code, message and details, as deep as they go."""
    return {"code": error.code, "message": error.message, "details": [_told(each) for each in error.details or ()]}


def _pool(found: Any) -> AgentPool:
    properties = found.properties
    state, tags = properties.provisioning_state or "", dict(properties.tags or {})
    return AgentPool(
        name=found.name,
        state=state,
        etag=properties.e_tag or "",
        vm_size=properties.vm_size or "",
        spot=properties.scale_set_priority == "Spot",
        tags=tags,
        power=properties.power_state.code or "" if properties.power_state else "",
        asked_at=_moment(tags.get(ASKED_TAG, "")),
        problem=_problem(state, properties.status),
    )


def _problem(state: str, status: Any) -> Refusal | None:
    """Why a pool failed, in the same words as if the PUT had been refused."""
    if state not in STUCK:
        return None
    error = status.provisioning_error if status is not None else None
    return classified(400, _told(error) if error is not None else {"message": f"agent pool is {state}"})


def _moment(tag: str) -> datetime | None:
    """People may write tags too: what is no time is no time."""
    try:
        found = moment(tag)
    except ValueError:
        return None
    return found if found.tzinfo else None


def connect(settings: ProvisionerSettings) -> AgentPools:
    """The agent pools that the settings name. Opens no connection yet."""
    extra: dict[str, Any] = {"base_url": settings.endpoint} if settings.endpoint else {}
    if settings.static_token_file:
        extra["authentication_policy"] = _StaticToken(Path(settings.static_token_file))
    credential = _credential(settings)
    client = ContainerServiceClient(credential, settings.subscription, **extra)
    prospects = Prospects(client, settings.subscription, settings.location) if settings.location else None
    where = {"resource_group": settings.resource_group, "cluster": settings.cluster}
    return AgentPools(client, credential, prospects=prospects, **where)


def _credential(settings: ProvisionerSettings) -> Any:
    """Workload identity where it is federated, else managed identity, else a developer's own login."""
    if settings.static_token_file:
        return _NoCredential()
    ways: list[Any] = []
    if settings.tenant and settings.client and settings.federated_token_file:
        ways.append(
            WorkloadIdentityCredential(
                tenant_id=settings.tenant, client_id=settings.client, token_file_path=settings.federated_token_file
            )
        )
    return ChainedTokenCredential(
        *ways, ManagedIdentityCredential(client_id=settings.client or None), AzureCliCredential()
    )


class _NoCredential:
    """The SDK wants a credential even where a policy of our own sets the header."""

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        raise NotImplementedError(f"no token for {scopes}: a static one is in use")

    async def close(self) -> None: ...

    async def __aenter__(self) -> "_NoCredential":
        return self

    async def __aexit__(self, *_: object) -> None: ...


class _StaticToken(AsyncHTTPPolicy[Any, Any]):
    """A bearer token from a file, for an endpoint that is not Azure; the SDK's own policy insists on TLS."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    async def send(self, request: PipelineRequest[Any]) -> Any:
        request.http_request.headers["Authorization"] = f"Bearer {self._file.read_text().strip()}"
        return await self.next.send(request)
