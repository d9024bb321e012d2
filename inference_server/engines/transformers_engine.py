"""The engine that runs every architecture: transformers, in one batch where that proves right; where it does not, or
where only ``generate`` can do what is asked, one request at a time in one thread.

torch and transformers are imported by that thread too, so that the server answers its probes meanwhile.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from inference_server.engines.engine import EngineError, Failed, Generation, Load, Loading, Ready, State, Step, Stopped
from inference_server.engines.supervision import Failures
from inference_server.settings import Settings

if TYPE_CHECKING:
    from inference_server.engines.transformers_model import TransformersModel

log = logging.getLogger(__name__)

Put = Callable[[Step | Exception | None], None]
"""Takes the next step, an error, or None at the end; callable from every thread."""


class TransformersEngine:
    """An Engine over one model of transformers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._progress = "not started"
        self._since = time.monotonic()
        self._stopping = threading.Event()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._model: Future[TransformersModel] = Future()
        self._failures = Failures()
        self._alone = 0

    @property
    def state(self) -> State:
        """See Engine."""
        if not self._model.done():
            return Loading(f"{self._progress}, {time.monotonic() - self._since:.0f} s")
        if error := self._model.exception():
            return Failed(" ".join(f"{type(error).__name__}: {error}".split()))
        if self._failures.too_many:
            return Failed("it failed three times within ten minutes; the log has the reasons")
        return Ready(self._model.result().served)

    @property
    def load(self) -> Load:
        """See Engine."""
        batch = self._model.result().batch if self._model.done() and not self._model.exception() else None
        together = batch.load if batch else Load()
        running = min(1, self._alone)
        return Load(
            running=running + together.running,
            waiting=self._alone - running + together.waiting,
            cache_blocks=together.cache_blocks,
            cache_blocks_used=together.cache_blocks_used,
        )

    def start(self) -> None:
        """See Engine."""
        self._since = time.monotonic()
        self._model = self._worker.submit(self._load)

    def _load(self) -> "TransformersModel":
        self._say("importing torch and transformers")
        from inference_server.engines.transformers_model import TransformersModel

        model = TransformersModel.load(self._settings, say=self._say, failed=self._fault)
        self._say("generating a first token")
        first = Generation(prompt=tuple(model.served.tokenizer.encode("Hello")), max_new_tokens=1)
        model.generate(first, put=lambda _: None, unwanted=self._stopping.is_set)
        if self._stopping.is_set() and model.batch:
            model.batch.stop()
        return model

    def _say(self, progress: str) -> None:
        self._progress = progress

    async def generate(self, request: Generation) -> AsyncGenerator[Step]:
        """See Engine."""
        if self._stopping.is_set():
            raise Stopped("the server stops")
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[Step | Exception | None] = asyncio.Queue()

        def put(step: Step | Exception | None) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        give_up = await self._together(request, put) or self._by_itself(request, put)
        try:
            while (step := await steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            give_up()

    async def _together(self, request: Generation, put: Put) -> Callable[[], None] | None:
        """Puts the request into the batch, and gives what takes it out again; None where it cannot be there."""
        model = self._model.result()
        batch = model.batch
        if batch is None:
            return None
        left = 0

        def counted(step: Step | Exception) -> None:
            nonlocal left
            put(step)
            left -= isinstance(step, Step) and step.finish is not None
            if not left:
                put(None)

        rows = await asyncio.to_thread(model.rows, request, counted)
        if not rows:
            return None
        left = len(rows)
        try:
            await asyncio.to_thread(batch.add, rows)
        except asyncio.CancelledError:
            batch.cancel(rows)
            raise
        return lambda: batch.cancel(rows)

    def _by_itself(self, request: Generation, put: Put) -> Callable[[], None]:
        """Puts the request into the queue of the one thread, and gives what takes it out again."""
        closed = threading.Event()

        def unwanted() -> bool:
            return closed.is_set() or self._stopping.is_set()

        def work() -> None:
            try:
                self._model.result().generate(request, put=put, unwanted=unwanted)
                put(Stopped("the server stops") if self._stopping.is_set() else None)
            except EngineError as error:
                put(error)
            except Exception as error:  # noqa: BLE001  (a fault of the engine: counted, logged, told)
                put(self._fault(error))

        def give_up() -> None:
            self._alone -= 1
            closed.set()

        self._worker.submit(work)
        self._alone += 1
        return give_up

    def _fault(self, error: Exception) -> EngineError:
        """Counts a fault that is none of the request, and says it."""
        from inference_server.engines.continuous_batch import out_of_memory

        if self._stopping.is_set():
            return Stopped("the server stops")
        if full := out_of_memory(error):
            return full
        log.error("the engine failed", exc_info=error)
        self._failures.add()
        return EngineError(f"the engine failed on this request: {type(error).__name__}")

    def stop(self) -> None:
        """See Engine."""
        self._stopping.set()
        self._worker.shutdown(wait=False)
        if self._model.done() and not self._model.cancelled() and not self._model.exception():
            batch = self._model.result().batch
            if batch:
                batch.stop()
