"""The supervisor's own requests to the API server; everybody else brings a client."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

MERGE = "application/merge-patch+json"


class Refused(Exception):
    """The API server said no, in its own words, or could not be reached."""


class Api:
    """Requests as one user."""

    def __init__(self, *, url: str, token: str, authority: Path) -> None:
        verified = ssl.create_default_context(cafile=str(authority))
        self._http = aiohttp.ClientSession(
            url, headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(ssl=verified)
        )

    async def ready(self) -> bool:
        """Whether the API server says it is ready."""
        try:
            async with self._http.get("/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def get(self, path: str) -> dict[str, Any] | None:
        """An object by its path; None if there is none. Raises Refused."""
        return await self._ask("GET", path)

    async def watch(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The objects of a collection, then each as it changes, until the API server ends it. Raises Refused."""
        forever = aiohttp.ClientTimeout(total=None, sock_connect=10)
        try:
            async with self._http.get(path, params={"watch": "true"}, timeout=forever) as answer:
                async for line in answer.content:
                    yield json.loads(line)["object"]
        except aiohttp.ClientError as error:
            raise Refused(f"WATCH {path}: {error}") from error

    async def merge(self, path: str, patch: Mapping[str, Any]) -> dict[str, Any] | None:
        """A merge patch of an object; None if there is none. Raises Refused."""
        return await self._ask("PATCH", path, body=patch)

    async def delete(self, path: str) -> None:
        """Deletes; that it is gone already is fine. Raises Refused."""
        await self._ask("DELETE", path)

    async def close(self) -> None:
        """Gives the connections back."""
        await self._http.close()

    async def _ask(self, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        headers = {"Content-Type": MERGE} if body is not None else {}
        try:
            async with self._http.request(method, path, json=body, headers=headers) as answer:
                said: dict[str, Any] = await answer.json()
        except aiohttp.ClientError as error:
            raise Refused(f"{method} {path}: {error}") from error
        if answer.status == 404:
            return None
        if answer.status >= 400:
            raise Refused(f"{method} {path}: {said.get('message', answer.reason)}")
        return said
