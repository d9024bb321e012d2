"""Whether we are anybody to the cloud: found out at start, again and again until we are, and now and then after that.

A process without an identity is not ready and says why. It does not end: the identity may be federated any minute.
"""

import asyncio
import logging

from kaito_operator.gpu_provisioner.cloud import Cloud, CloudError

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between tries that fail, doubling."""
CERTAIN_SECONDS = 300.0
"""How long an identity is believed in; the credential keeps its token until shortly before it expires."""


class Identity:
    """What readiness asks."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.problem: str | None = "the cloud has not been asked yet who we are"
        """Why nothing can be asked of the cloud; None if something can."""

    async def watch(self) -> None:
        """Until cancelled."""
        pause = FIRST_PAUSE
        while True:
            if await self._find_out():
                pause = FIRST_PAUSE
                await asyncio.sleep(CERTAIN_SECONDS)
                continue
            log.warning("not ready: %s; asking again in %.0f s", self.problem, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _find_out(self) -> bool:
        try:
            await self._cloud.identify()
        except CloudError as error:
            self.problem = f"no identity for the cloud: {error.refusal.message}"
        else:
            self.problem = None
        return self.problem is None
