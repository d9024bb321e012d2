"""Who gpu-provisioner is to Azure: found out without ending the process, told in readiness and log, and kept secret."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kaito_operator.gpu_provisioner.azure import connect
from kaito_operator.gpu_provisioner.azure_credentials import credential, scopes
from kaito_operator.gpu_provisioner.cloud import CloudError
from kaito_operator.gpu_provisioner.identity import Identity
from kaito_operator.settings import ProvisionerSettings
from local_cluster.azure import AzureStandIn
from tests.support.azure import running
from tests.support.control_plane import ApiServer
from tests.support.joins_as_node import NODES, JoinsAsNode
from tests.support.machines import a_machine
from tests.support.provisioner_process import provisioner
from tests.support.record_only import RecordOnlyCloud
from tests.support.waiting import soon

GOVERNMENT, CHINA = "https://management.usgovcloudapi.net", "https://management.chinacloudapi.cn/"
MACHINES, EVENTS = "/apis/karpenter.sh/v1alpha5/machines", "/api/v1/events"


def settings(**more: Any) -> ProvisionerSettings:
    return ProvisionerSettings(subscription="s", resource_group="g", cluster="c", **more)


@pytest.mark.parametrize(
    ("endpoint", "scope"),
    [
        ("", "https://management.azure.com/.default"),
        ("https://management.azure.com", "https://management.azure.com/.default"),
        (GOVERNMENT, "https://management.core.usgovcloudapi.net/.default"),
        (CHINA, "https://management.chinacloudapi.cn/.default"),
        ("https://arm.stack.example/", "https://arm.stack.example/.default"),
    ],
)
def test_a_token_is_asked_for_the_audience_of_the_cloud_that_the_endpoint_is(endpoint: str, scope: str) -> None:
    assert scopes(endpoint) == [scope]


@pytest.mark.parametrize(
    ("endpoint", "named", "host"),
    [
        ("", "", "login.microsoftonline.com"),
        (GOVERNMENT, "", "login.microsoftonline.us"),
        (CHINA, "", "login.chinacloudapi.cn"),
        (GOVERNMENT, "https://login.elsewhere.example/", "login.elsewhere.example"),
    ],
)
async def test_a_sovereign_cloud_has_its_own_place_for_tokens_unless_the_webhook_names_one(
    endpoint: str, named: str, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", named)
    else:
        monkeypatch.delenv("AZURE_AUTHORITY_HOST", raising=False)
    token = tmp_path / "token"
    token.write_text("x")
    federated = settings(tenant="t", client="c", federated_token_file=str(token), endpoint=endpoint)
    chain = credential(federated)
    assert chain.credentials[0]._client._authority == f"https://{host}"  # nothing public tells
    await chain.close()


@pytest.mark.badinput
async def test_settings_that_are_no_identity_end_no_process_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook leaves the client id out where nobody annotated the service account with one."""
    monkeypatch.delenv("AZURE_CLIENT_ID", raising=False)
    for name in ("AZURE_AUTHORITY_HOST", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.setenv(name, "https://login.example/" if name == "AZURE_AUTHORITY_HOST" else "x")
    pools = connect(settings())
    with pytest.raises(CloudError, match="no client ID was provided") as refused:
        await pools.identify()
    assert refused.value.refusal.reason == "AuthorizationFailed"
    await pools.close()


async def test_what_needs_no_token_has_an_identity(tmp_path: Path) -> None:
    pools = connect(settings(static_token_file=str(tmp_path / "token"), endpoint="http://127.0.0.1:1"))
    identity = Identity(pools)
    watching = asyncio.create_task(identity.watch())
    await soon(lambda: identity.problem is None, what="an identity")
    watching.cancel()
    await pools.close()


async def test_until_the_cloud_was_asked_nobody_is_ready() -> None:
    assert Identity(RecordOnlyCloud()).problem == "the cloud has not been asked yet who we are"


@dataclass
class ManagedIdentity:
    """The place in a node that gives tokens out (App Service's form of it, which needs no fixed address)."""

    token: str
    federated: bool = False
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """A token, or the answer to an identity that nobody has assigned."""
        self.asked.append(request.query["resource"])
        if not self.federated:
            return web.json_response(
                {"error": "invalid_request", "error_description": "Identity not found"}, status=400
            )
        told = {"access_token": self.token, "expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
        return web.json_response({**told, "resource": request.query["resource"]})

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Its address."""
        app = web.Application()
        app.router.add_get("/token", self.answer)
        async with TestServer(app) as server:
            yield str(server.make_url("/token"))


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds")
async def test_a_process_without_an_identity_is_not_ready_says_so_and_goes_on_once_there_is_one(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    canary = f"canary-{secrets.token_hex(16)}"
    place = ManagedIdentity(canary)
    async with place.served() as address:
        identity = {"IDENTITY_ENDPOINT": address, "IDENTITY_HEADER": canary, "KAITO_LOG_LEVEL": "DEBUG"}
        with provisioner(api_server, namespace, tmp_path / "log", endpoint=GOVERNMENT, **identity) as process:
            await soon(lambda: "no identity" in process.readiness()[1], within=30, what="it says what is missing")
            assert process.readiness()[0] == 503
            told = [line["msg"] for line in process.lines() if line["msg"].startswith("not ready: no identity")]
            assert "Identity not found" in told[0]

            place.federated = True
            await soon(lambda: process.readiness() == (200, "ok"), within=30, what="ready")
            assert process.process.poll() is None
            assert set(place.asked) == {"https://management.core.usgovcloudapi.net"}
            assert canary not in process.log.read_text() + process.metrics()


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds")
async def test_a_token_is_in_no_log_event_status_or_metric_whatever_azure_says(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    canary = f"canary-{secrets.token_hex(16)}"
    (tmp_path / "token").write_text(canary)
    async with running(AzureStandIn(JoinsAsNode(api_server), boot_seconds=0)) as azure:
        await azure.fault(request="put", status=403, body={"error": {"code": "AuthorizationFailed", "message": "no"}})
        how = {
            "KAITO_AZURE_STATIC_TOKEN_FILE": str(tmp_path / "token"),
            "KAITO_LOG_LEVEL": "DEBUG",
            "KAITO_POLL_SECONDS": "0.3",
            "KAITO_GONE_SECONDS": "0.3",
            "KAITO_AZURE_REQUESTS_PER_SECOND": "100",
        }
        made = a_machine(name="canary")
        meta = {key: made["metadata"][key] for key in ("name", "labels", "annotations")}
        api_server.ask("POST", MACHINES, {**made, "metadata": meta})
        path = f"{MACHINES}/canary"
        with provisioner(api_server, namespace, tmp_path / "log", endpoint=azure.url, **how) as process:

            def told() -> bool:
                return all("AuthorizationFailed" in str(api_server.ask("GET", at)) for at in (path, EVENTS))

            await soon(told, within=30, what="the refusal is told by status and event")
            seen = [str(api_server.get(path)), str(api_server.ask("GET", EVENTS)), process.metrics()]
            api_server.ask("DELETE", path)
            await soon(lambda: api_server.get(path) is None, within=30, what="gone")
            seen += [process.metrics(), process.log.read_text(), str(api_server.ask("GET", NODES))]
        assert any(call["class"] == "put" for call in azure.stand_in.history)
        assert "karpenter.sh" in seen[0]
        assert "AuthorizationFailed" in seen[1]
        assert not [text for text in [*seen, str(azure.stand_in.history)] if canary in text]
