"""Who we are to Azure, and to which of its clouds: workload identity, managed identity, or a developer's own login."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from azure.core import AzureClouds
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import AsyncHTTPPolicy
from azure.identity import AzureAuthorityHosts
from azure.identity.aio import (
    AzureCliCredential,
    ChainedTokenCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from azure.mgmt.core.tools import get_arm_endpoints

from kaito_operator.settings import ProvisionerSettings

AUTHORITIES = {
    AzureClouds.AZURE_PUBLIC_CLOUD: AzureAuthorityHosts.AZURE_PUBLIC_CLOUD,
    AzureClouds.AZURE_US_GOVERNMENT: AzureAuthorityHosts.AZURE_GOVERNMENT,
    AzureClouds.AZURE_CHINA_CLOUD: AzureAuthorityHosts.AZURE_CHINA,
}


def scopes(endpoint: str) -> list[str]:
    """For what a token is asked for: each sovereign cloud has an audience of its own, another endpoint is its own."""
    cloud = _cloud(endpoint)
    if cloud is None:
        return [f"{endpoint.rstrip('/')}/.default"]
    found: list[str] = get_arm_endpoints(cloud)["credential_scopes"]
    return found


def credential(settings: ProvisionerSettings) -> Any:
    """Workload identity where it is federated, else managed identity, else a developer's own login.

    None of them is asked for a token yet, and none ends the process: what is wrong is told when a token is asked for.
    """
    if settings.static_token_file:
        return NoCredential()
    try:
        return _chain(settings)
    except ValueError as wrong:  # a tenant that is none, or a webhook that left out the client id
        return NoCredential(str(wrong))


def _chain(settings: ProvisionerSettings) -> ChainedTokenCredential:
    ways: list[Any] = []
    if settings.tenant and settings.client and settings.federated_token_file:
        ways.append(
            WorkloadIdentityCredential(
                tenant_id=settings.tenant,
                client_id=settings.client,
                token_file_path=settings.federated_token_file,
                **_authority(settings.endpoint),
            )
        )
    return ChainedTokenCredential(
        *ways, ManagedIdentityCredential(client_id=settings.client or None), AzureCliCredential()
    )


def _cloud(endpoint: str) -> AzureClouds | None:
    """The cloud of Azure whose Resource Manager that is; the public one unless another is named."""
    host = urlsplit(endpoint).hostname or ""
    named = {urlsplit(get_arm_endpoints(cloud)["resource_manager"]).hostname: cloud for cloud in AzureClouds}
    return named.get(host) if endpoint else AzureClouds.AZURE_PUBLIC_CLOUD


def _authority(endpoint: str) -> dict[str, str]:
    """Where tokens are had; what the workload identity webhook says comes first."""
    cloud = _cloud(endpoint)
    return {} if cloud is None or os.environ.get("AZURE_AUTHORITY_HOST") else {"authority": AUTHORITIES[cloud]}


class NoCredential:
    """Where there is none: a policy of our own sets the header, or ``problem`` says why there is none."""

    def __init__(self, problem: str = "a static token is in use") -> None:
        self.problem = problem

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        """Never one."""
        raise ClientAuthenticationError(self.problem)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> "NoCredential":
        return self

    async def __aexit__(self, *_: object) -> None: ...


class StaticToken(AsyncHTTPPolicy[Any, Any]):
    """A bearer token from a file, for an endpoint that is not Azure; the SDK's own policy insists on TLS."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    async def send(self, request: PipelineRequest[Any]) -> Any:
        """The file is read each time: tokens are renewed."""
        request.http_request.headers["Authorization"] = f"Bearer {self._file.read_text().strip()}"
        return await self.next.send(request)
