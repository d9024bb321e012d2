"""Requests that the operators' client has no verb for: answers read line by line as they come, and any path."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from kaito_operator.kube import errors
from kaito_operator.kube.client import Connection, Kube

CONNECT_SECONDS = 20.0
LINE_BYTES = 1 << 20
"""The longest line of a log or of a streamed answer that is taken."""


@dataclass(frozen=True, slots=True)
class Requests:
    """The same API server as the same user, by a session of our own."""

    session: aiohttp.ClientSession
    server_name: str | None = None
    """Whom the server's certificate must name, where that is not its address."""

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON of a path. Raises the errors of ``kube.errors``."""
        return await self._whole("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON that a POST of JSON is answered with."""
        return await self._whole("POST", path, body)

    async def lines(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> AsyncIterator[str]:
        """The answer line by line, for as long as it goes on."""
        try:
            async with self.session.request(method, path, json=body, server_hostname=self.server_name) as answer:
                if answer.status >= 300:
                    raise _refusal(answer.status, await answer.read(), answer.headers)
                async for line in answer.content:
                    yield line.decode(errors="replace").rstrip("\r\n")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as lost:
            raise errors.Unavailable(0, "NoAnswer", f"{method} {path}: {lost or type(lost).__name__}") from lost

    async def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        text = "\n".join([line async for line in self.lines(method, path, body)])
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as broken:
            raise errors.Unavailable(0, "BrokenAnswer", f"{method} {path}: {broken}") from broken
        return found


@asynccontextmanager
async def requests(kube: Kube) -> AsyncIterator[Requests]:
    """A session with the credentials of ``kube``, as of now."""
    connection = await kube.connection()
    headers = {"Authorization": f"Bearer {connection.token}"} if connection.token else {}
    headers["User-Agent"] = kube.field_manager
    async with aiohttp.ClientSession(
        connection.server,
        headers=headers,
        connector=aiohttp.TCPConnector(ssl=_trust(connection)),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        read_bufsize=LINE_BYTES,
    ) as session:
        yield Requests(session, connection.server_name)


def _refusal(status: int, body: bytes, headers: Mapping[str, str]) -> errors.KubeError:
    """The typed error; where the body has no message as Kubernetes has it, what a pod behind the proxy said, whole."""
    refused = errors.of(status, body, headers)
    refused.message = refused.message or body.decode(errors="replace")
    return refused


def _trust(connection: Connection) -> ssl.SSLContext | bool:
    if not connection.server.startswith("https:"):
        return False
    trusted = ssl.create_default_context(cafile=connection.ca_path)
    if connection.insecure:
        trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE
    if connection.certificate_path:
        trusted.load_cert_chain(connection.certificate_path, connection.private_key_path)
    return trusted
