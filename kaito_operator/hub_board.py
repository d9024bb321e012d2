"""What the Hugging Face Hub says of models that are not in the catalogue: asked beside the passes, never within one."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kaito_operator.api.reasons import Reason
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.workspace.hub_models import Answer, Trouble
from presets.catalog import Catalog, Model, UnknownModel
from presets.hub.reader import Broken, Gated, HubError, Missing, Unreachable, Unsupported

log = logging.getLogger(__name__)

REASONS: dict[type[HubError], Reason] = {
    Gated: Reason.HUB_GATED,
    Missing: Reason.HUB_MODEL_MISSING,
    Unsupported: Reason.HUB_MODEL_UNSUPPORTED,
    Broken: Reason.HUB_MODEL_UNSUPPORTED,
    Unreachable: Reason.HUB_UNREACHABLE,
}
AT_ONCE = 4
SOON, LATER = 30.0, 600.0
"""Seconds until the Hub is asked again: when it did not answer, and when its answer was no."""
MOST = 1000
"""Answers that are kept; a Workspace that is worked on has its own in its status."""


class Reader(Protocol):
    """Where models are looked up: ``presets.hub.reader.Hub``."""

    def model(self, id: str, *, revision: str = "main") -> Model:
        """Blocks. Raises HubError."""


@dataclass(slots=True)
class HubBoard:
    """Answers by id, and who waits for one. All but the look-up itself runs in the event loop."""

    hub: Reader
    catalog: Catalog
    soon: float = SOON
    later: float = LATER
    _answers: dict[str, Answer] = field(default_factory=dict)
    _again: dict[str, float] = field(default_factory=dict)
    """When an answer that was none is worth another question, on the monotonic clock."""
    _waiting: dict[str, set[Key]] = field(default_factory=dict)
    _asked: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, key: Key, name: str) -> Answer | None:
        """What is known of a model; a question that is open is noted, and its answer brings a pass for the key."""
        if self._in_catalogue(name):
            return None
        answer = self._answers.get(name)
        if not isinstance(answer, Model):
            self._waiting.setdefault(name, set()).add(key)
            self._asked.set()
        return answer

    async def keep_up(self, add: Callable[[Key], None], _mirror: Mirror) -> None:
        """Asks the Hub whatever is open, until cancelled."""
        while True:
            due = [name for name in self._waiting if self._again.get(name, 0.0) <= time.monotonic()]
            if not due:
                await self._something_to_do()
                continue
            batch = due[:AT_ONCE]
            answers = await asyncio.gather(*(asyncio.to_thread(self._ask, name) for name in batch))
            for name, answer in zip(batch, answers, strict=True):
                self._note(name, answer)
                for key in self._waiting.pop(name):
                    add(key)

    async def _something_to_do(self) -> None:
        """Returns when there is a question, or one is due again."""
        self._asked.clear()
        due = min((self._again.get(name, 0.0) for name in self._waiting), default=None)
        left = None if due is None else max(0.0, due - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await self._asked.wait()
        except TimeoutError:
            return

    def _ask(self, name: str) -> Answer:
        """In a thread of its own: the reader waits for the network."""
        try:
            return self.hub.model(name)
        except HubError as error:
            return Trouble(REASONS[type(error)], str(error))
        except OSError as error:  # its cache
            return Trouble(Reason.HUB_UNREACHABLE, f"the answer on {name} cannot be kept: {error.strerror or error}")

    def _note(self, name: str, answer: Answer) -> None:
        if isinstance(answer, Trouble):
            pause = self.soon if answer.reason is Reason.HUB_UNREACHABLE else self.later
            self._again[name] = time.monotonic() + pause
            log.warning("%s: %s", name, answer.message)
        self._answers[name] = answer
        if len(self._answers) > MOST:
            oldest = next(iter(self._answers))
            del self._answers[oldest]
            self._again.pop(oldest, None)

    def _in_catalogue(self, name: str) -> bool:
        try:
            self.catalog.model(name)
        except UnknownModel:
            return False
        return True
