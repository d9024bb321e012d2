"""The only calls to Azure: agent pools by ``azure-mgmt-containerservice``, one request each, no waiting inside the SDK.

``polling=False`` because the state of an operation is observed, and no retries, because the SDK would sleep through any
Retry-After: when to ask again is decided in ``errors.py``.
"""

import asyncio
import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.mgmt.containerservice.aio import ContainerServiceClient
from azure.mgmt.containerservice.models import AgentPool as AksAgentPool

from kaito_operator.api.conditions import moment
from kaito_operator.gpu_provisioner.agent_pool import ASKED_TAG
from kaito_operator.gpu_provisioner.azure_credentials import StaticToken, credential, scopes
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
        scopes: Sequence[str] = (),
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """``scopes``: for what tokens are asked for; none where a token is given."""
        self._prospects, self._scopes, self._request_seconds = prospects, tuple(scopes), request_seconds
        self._client, self._credential = client, credential
        self._pools = client.agent_pools
        self._where = (resource_group, cluster)

    async def identify(self) -> None:
        """A token can be had; asks Entra ID if none is at hand, never Resource Manager."""
        if self._scopes:
            await self._answer(self._credential.get_token(*self._scopes))

    async def create(self, name: str, wanted: Mapping[str, Any]) -> AgentPool:
        """PUT with If-None-Match: *."""
        call = self._pools.begin_create_or_update(
            *self._where, name, AksAgentPool(wanted), polling=False, match_condition=MatchConditions.IfMissing, **ONCE
        )
        poller = await self._answer(call)
        return _pool(await self._answer(poller.result()))

    async def delete(self, name: str, *, etag: str) -> None:
        """DELETE with If-Match; a pool that is gone already is no error."""
        condition = MatchConditions.IfNotModified if etag else None
        call = self._pools.begin_delete(
            *self._where, name, etag=etag or None, match_condition=condition, polling=False, **ONCE
        )
        try:
            await self._answer(call)
        except _NotThere:
            return

    async def abort(self, name: str) -> None:
        """POST …/abort; an operation that has ended meanwhile is no error, nor is a pool that is gone."""
        call = self._pools.begin_abort_latest_operation(*self._where, name, polling=False, **ONCE)
        try:
            await self._answer(call)
        except _NotThere:
            return

    async def get(self, name: str) -> AgentPool | None:
        """GET; None for 404."""
        try:
            return _pool(await self._answer(self._pools.get(*self._where, name, **ONCE)))
        except _NotThere:
            return None

    async def list(self) -> "builtins.list[AgentPool]":
        """LIST, all pages."""
        pools: builtins.list[AgentPool] = await self._answer(self._all())
        return pools

    async def outlook(self, wanted: Mapping[str, Any]) -> Refusal | None:
        """From sizes and usages of the region; nothing is known where the region is not."""
        return None if self._prospects is None else await self._prospects.of(wanted)

    async def close(self) -> None:
        """Closes the connections, those for tokens too."""
        await self._client.close()
        await self._credential.close()

    async def _answer(self, call: Any) -> Any:
        """One request's answer within its time. Raises CloudError, or _NotThere."""
        try:
            async with asyncio.timeout(self._request_seconds):
                return await call
        except ResourceNotFoundError as missing:
            if _is_the_pool(missing):
                raise _NotThere from missing
            raise _refused(missing) from missing
        except ClientAuthenticationError as stranger:  # of ARM, or of a credential that found no token
            raise CloudError(classified(stranger.status_code or 401, _body(stranger))) from stranger
        except (
            DecodeError
        ) as cut:  # an answer that broke off, or is none: whatever its status, nobody knows what was done
            raise CloudError(classified(0, {"message": str(cut.message)})) from cut
        except HttpResponseError as refused:
            raise _refused(refused) from refused
        except (AzureError, TimeoutError, OSError) as lost:
            raise CloudError(classified(0, {"message": str(lost) or "no answer in time"})) from lost

    async def _all(self) -> "builtins.list[AgentPool]":
        return [_pool(found) async for found in self._pools.list(*self._where, **ONCE)]


class _NotThere(Exception):
    """404: no such pool."""


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
        zones=tuple(sorted(properties.availability_zones or ())),
        count=properties.count,
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


def connect(settings: ProvisionerSettings, *, request_seconds: float = REQUEST_SECONDS) -> AgentPools:
    """The agent pools that the settings name. Opens no connection yet."""
    asked_for = scopes(settings.endpoint)
    extra: dict[str, Any] = {"base_url": settings.endpoint} if settings.endpoint else {}
    if settings.static_token_file:
        extra["authentication_policy"] = StaticToken(Path(settings.static_token_file))
    identity = credential(settings)
    client = ContainerServiceClient(identity, settings.subscription, credential_scopes=asked_for, **extra)
    prospects = Prospects(client, settings.subscription, settings.location) if settings.location else None
    return AgentPools(
        client,
        identity,
        resource_group=settings.resource_group,
        cluster=settings.cluster,
        prospects=prospects,
        scopes=() if settings.static_token_file else asked_for,
        request_seconds=request_seconds,
    )
