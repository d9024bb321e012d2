"""The engine that runs every architecture: ``generate`` of transformers, one request at a time in one thread.

torch and transformers are imported by that thread too, so that the server answers its probes meanwhile.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from inference_server.engines.engine import EngineError, Failed, Generation, Loading, Ready, State, Step, Stopped
from inference_server.engines.supervision import Failures
from inference_server.settings import Settings

if TYPE_CHECKING:
    from inference_server.engines.transformers_model import TransformersModel

log = logging.getLogger(__name__)


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

    def start(self) -> None:
        """See Engine."""
        self._since = time.monotonic()
        self._model = self._worker.submit(self._load)

    def _load(self) -> "TransformersModel":
        self._say("importing torch and transformers")
        from inference_server.engines.transformers_model import TransformersModel

        model = TransformersModel.load(self._settings, say=self._say)
        self._say("generating a first token")
        first = Generation(prompt=tuple(model.served.tokenizer.encode("Hello")), max_new_tokens=1)
        model.generate(first, put=lambda _: None, unwanted=self._stopping.is_set)
        return model

    def _say(self, progress: str) -> None:
        self._progress = progress

    async def generate(self, request: Generation) -> AsyncGenerator[Step]:
        """See Engine."""
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[Step | None] = asyncio.Queue()
        closed = threading.Event()

        def put(step: Step | None) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        def unwanted() -> bool:
            return closed.is_set() or self._stopping.is_set()

        def work() -> None:
            try:
                self._answer(request, put=put, unwanted=unwanted)
                if self._stopping.is_set():
                    raise Stopped("the server stops")
            finally:
                put(None)

        if self._stopping.is_set():
            raise Stopped("the server stops")
        working = self._worker.submit(work)
        try:
            while (step := await steps.get()) is not None:
                yield step
            await asyncio.wrap_future(working)
        finally:
            closed.set()

    def _answer(self, request: Generation, *, put: Callable[[Step], None], unwanted: Callable[[], bool]) -> None:
        """In the engine's thread. What is not an EngineError is a fault of the engine, counted and told as one."""
        try:
            self._model.result().generate(request, put=put, unwanted=unwanted)
        except EngineError:
            raise
        except Exception as error:
            log.exception("the engine failed")
            self._failures.add()
            raise EngineError(f"the engine failed on this request: {type(error).__name__}") from error

    def stop(self) -> None:
        """See Engine."""
        self._stopping.set()
        self._worker.shutdown(wait=False)
