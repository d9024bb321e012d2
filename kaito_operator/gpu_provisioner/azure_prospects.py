"""Azure's own figures about a region, sizes and usages, read now and then: a refusal foreseen costs no PUT."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from azure.core.exceptions import AzureError
from azure.core.rest import HttpRequest
from azure.mgmt.containerservice.aio import ContainerServiceClient

from kaito_operator.gpu_provisioner.errors import Refusal
from kaito_operator.gpu_provisioner.quota import Size, Usage, outlook, sizes_of, usages_of

log = logging.getLogger(__name__)

USAGES_SECONDS, SIZES_SECONDS = 600.0, 6 * 3600.0
"""How old the figures may be (karpenter-provider-azure reads usages every ten minutes)."""
REQUEST_SECONDS = 30.0
ONCE: dict[str, Any] = {"retry_total": 0, "retry_status": 0}


class Prospects:
    """What is known of one region of a subscription."""

    def __init__(self, client: ContainerServiceClient, subscription: str, location: str) -> None:
        self._client, self._location = client, location
        compute = f"/subscriptions/{subscription}/providers/Microsoft.Compute"
        self._usages_at = f"{compute}/locations/{location}/usages", {"api-version": "2024-07-01"}
        here = {"$filter": f"location eq '{location}'"}
        self._sizes_at = f"{compute}/skus", {"api-version": "2021-07-01", **here}
        self._usages: dict[str, Usage] = {}
        self._sizes: dict[str, Size] = {}
        self._stale_at = {"usages": 0.0, "sizes": 0.0}
        self._reading = asyncio.Lock()

    async def of(self, wanted: Mapping[str, Any]) -> Refusal | None:
        """Why a pool would be refused; None if nothing is known against it, or nothing at all."""
        async with self._reading:
            if self._is_stale("usages", USAGES_SECONDS):
                self._usages = usages_of(await self._read(*self._usages_at))
            if self._is_stale("sizes", SIZES_SECONDS):
                self._sizes = sizes_of(await self._read(*self._sizes_at))
        properties = wanted["properties"]
        spot = properties.get("scaleSetPriority") == "Spot"
        return outlook(properties["vmSize"], spot=spot, sizes=self._sizes, usages=self._usages, location=self._location)

    def _is_stale(self, what: str, seconds: float) -> bool:
        """A read that fails counts too: figures are a help, and may be missing."""
        if time.monotonic() < self._stale_at[what]:
            return False
        self._stale_at[what] = time.monotonic() + seconds
        return True

    async def _read(self, at: str, query: dict[str, str]) -> list[dict[str, Any]]:
        """The values of a list; none if Azure will not tell."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await self._client.send_request(HttpRequest("GET", at, params=query), **ONCE)
                answer.raise_for_status()
                found: list[dict[str, Any]] = answer.json()["value"]
                return found
        except (AzureError, TimeoutError, OSError, ValueError, KeyError) as unknown:
            log.info("%s: %s; quota is not checked beforehand", at, unknown)
            return []
