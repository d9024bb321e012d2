"""How far a training is: asked of the trainer itself, so that a pod needs no rights on Workspaces."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from kaito_operator.api import labels
from kaito_operator.api.kinds import POD
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.workspace import seen
from kaito_operator.workspace.seen import Progress
from kaito_operator.workspace.services import HTTP_PORT
from kaito_operator.workspace.tuning import COMPONENT, TRAINER

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
"""Between two looks, and so between two writes of a status that only moved on."""
TIMEOUT = aiohttp.ClientTimeout(total=3)


class Told(BaseModel, frozen=True):
    """What the trainer says at ``/progress``, as far as it is shown."""

    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    loss: float | None = None
    eta_seconds: float | None = Field(default=None, ge=0)


@dataclass(slots=True)
class ProgressBoard:
    """The last progress of each training pod, by namespace and name; forgotten when it trains no more."""

    port: int = HTTP_PORT
    every_seconds: float = EVERY_SECONDS
    _by_pod: dict[tuple[str, str], Progress] = field(default_factory=dict)

    def of(self, key: Key, pod: str) -> Progress | None:
        """How far a pod of a Workspace is."""
        return self._by_pod.get((key.namespace, pod))

    async def keep_up(self, add: Callable[[Key], None], mirror: Mirror) -> None:
        """Asks every training pod now and then, until cancelled; whom it concerns gets a pass."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            while True:
                await asyncio.sleep(self.every_seconds)
                at_work = list(_training(mirror))
                told = await asyncio.gather(*(_ask(session, address, port=self.port) for _, _, address in at_work))
                now = {(key.namespace, pod): each for (key, pod, _), each in zip(at_work, told, strict=True) if each}
                moved = [key for key, pod, _ in at_work if now.get((key.namespace, pod)) != self.of(key, pod)]
                self._by_pod = now
                for key in moved:
                    add(key)


def _training(mirror: Mirror) -> list[tuple[Key, str, str]]:
    """Workspace, name and address of every pod whose trainer runs."""
    found = []
    for manifest in mirror.all(POD):
        pod = seen.pod(manifest)
        trains = any(each.name == TRAINER and each.runs for each in pod.containers)
        if pod.component == COMPONENT and trains and pod.address:
            key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["labels"][labels.WORKSPACE])
            found.append((key, pod.name, pod.address))
    return found


async def _ask(session: aiohttp.ClientSession, address: str, *, port: int) -> Progress | None:
    """A trainer that does not answer is busy, or still loads its libraries; the next look tells."""
    host = f"[{address}]" if ":" in address else address
    try:
        async with session.get(f"http://{host}:{port}/progress") as answer:
            told = Told.model_validate_json(await answer.content.read(65536))
    except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
        log.debug("no progress from %s: %s", address, error)
        return None
    return Progress(
        step=told.step,
        steps=told.total_steps,
        loss=f"{told.loss:.4g}" if told.loss is not None else "",
        eta_seconds=round(told.eta_seconds) if told.eta_seconds is not None else None,
    )
