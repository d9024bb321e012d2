"""Azure's stand-in on loopback, the real SDK client to speak to it, and machines that join an API server as Nodes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.containerservice.aio import ContainerServiceClient

from kaito_operator.settings import ProvisionerSettings
from local_cluster.azure import AzureStandIn
from local_cluster.azure_machines import VirtualMachine

SUBSCRIPTION, GROUP, CLUSTER = "00000000-0000-0000-0000-000000000001", "group", "prod"
WHERE = (GROUP, CLUSTER)
POOLS = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.ContainerService"
    f"/managedClusters/{CLUSTER}/agentPools"
)
ANY_TOKEN = {"Authorization": "Bearer x"}


@dataclass(frozen=True)
class Azure:
    """A running stand-in."""

    stand_in: AzureStandIn
    url: str

    def settings(self, token_file: Path, **more: Any) -> ProvisionerSettings:
        """gpu-provisioner's settings for it."""
        token_file.write_text("x")
        return ProvisionerSettings(
            subscription=SUBSCRIPTION,
            resource_group=GROUP,
            cluster=CLUSTER,
            endpoint=self.url,
            static_token_file=str(token_file),
            **more,
        )

    def calls(self, method: str = "") -> list[tuple[str, int]]:
        """Method and status of every call so far; of one method, if it is given."""
        told = ((call["method"], call["status"]) for call in self.stand_in.history)
        return [call for call in told if method in ("", call[0])]

    async def ask(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """A plain request: its status, and its JSON if it has any."""
        async with aiohttp.ClientSession(self.url) as session, session.request(method, path, **request) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else None

    async def fault(self, **fault: Any) -> None:
        """Asks for a fault."""
        assert (await self.ask("POST", "/control/faults", json=fault))[0] == 204

    async def set(self, **settings: Any) -> None:
        """Changes how it behaves."""
        assert (await self.ask("PUT", "/control/settings", json=settings))[0] == 204

    async def heal(self) -> None:
        """No faults any more."""
        assert (await self.ask("DELETE", "/control/faults"))[0] == 204


@asynccontextmanager
async def running(stand_in: AzureStandIn) -> AsyncIterator[Azure]:
    """Serves it until the block ends."""
    async with TestServer(stand_in.app()) as server:
        yield Azure(stand_in, str(server.make_url("")))


@asynccontextmanager
async def sdk(azure: Azure) -> AsyncIterator[ContainerServiceClient]:
    """The SDK's own client, as anybody would use it."""
    policy = _AnyToken()
    async with ContainerServiceClient(
        _NoCredential(),  # type: ignore[arg-type]  # the policy below never asks it
        SUBSCRIPTION,
        base_url=azure.url,
        authentication_policy=policy,
        polling_interval=0,
    ) as client:
        yield client


class _NoCredential:
    """The SDK insists on one."""


class _AnyToken(SansIOHTTPPolicy[Any, Any]):
    """The SDK's own policy refuses to send a token without TLS."""

    def on_request(self, request: PipelineRequest[Any]) -> None:
        request.http_request.headers.update(ANY_TOKEN)


@dataclass
class Recorded:
    """Machines that are only written down, and what was ever started."""

    running: dict[str, VirtualMachine] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)

    async def start(self, machine: VirtualMachine) -> None:
        """Writes it down."""
        self.started.append(machine.name)
        self.running[machine.name] = machine

    async def stop(self, name: str) -> None:
        """Strikes it out."""
        self.running.pop(name, None)
