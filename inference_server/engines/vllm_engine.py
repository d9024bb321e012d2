"""vLLM as an engine, for images that have it: its AsyncLLM on an event loop of its own, behind our protocol.

The seam is ``Backend``: what of vLLM is used. Nothing of vLLM is imported before ``start``. vLLM computes in processes
of its own; when they end, what runs fails, and they are started again, as often as ``Failures`` allows.
"""

import asyncio
import logging
import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Protocol

import psutil

from inference_server.engines.engine import (
    EngineError,
    Failed,
    Generation,
    InvalidParameters,
    Load,
    Loading,
    Ready,
    ServedModel,
    State,
    Step,
    Stopped,
)
from inference_server.engines.supervision import Failures
from inference_server.engines.vllm_request import Wanted, wanted
from inference_server.settings import Settings

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # it tells its authors what is served where
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads and an open port, which a fork would keep
}
"""What is set before vLLM is imported, unless whoever starts the server has said otherwise."""
LOOK_SECONDS = 0.5
"""How often it is looked whether vLLM's processes live: nothing else tells where nobody asks for anything."""


class Backend(Protocol):
    """vLLM, loaded; used on one event loop alone, but for ``load``."""

    @property
    def served(self) -> ServedModel:
        """What it serves."""
        ...

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text of this model."""
        ...

    @property
    def dead(self) -> bool:
        """Whether its processes have ended."""
        ...

    @property
    def load(self) -> Load:
        """What it has to do, as it told last."""
        ...

    async def prepare(self) -> None:
        """What takes the loop: adapters are read here."""
        ...

    def generate(self, asked: Wanted, request_id: str) -> AsyncGenerator[Step]:
        """The steps as they come; closing it aborts the request. Raises ValueError for what vLLM refuses."""
        ...

    def shutdown(self) -> None:
        """Ends its processes."""
        ...


class VllmEngine:
    """An Engine over vLLM. ``load`` makes the backend; it takes minutes and runs in the engine's thread."""

    def __init__(self, settings: Settings, *, load: Callable[[Settings], Backend] | None = None) -> None:
        self._settings = settings
        self._make = load or _load
        self._loop: asyncio.AbstractEventLoop | None = None
        self._backend: Backend | None = None
        self._failed = ""
        self._progress, self._since = "not started", time.monotonic()
        self._stopping = threading.Event()
        self._over = asyncio.Event()
        self._failures = Failures()
        self._inside = self._begun = 0

    @property
    def state(self) -> State:
        """See Engine."""
        if self._failed:
            return Failed(self._failed)
        if self._failures.too_many:
            return Failed("it failed three times within ten minutes; the log has the reasons")
        if backend := self._backend:
            return Ready(backend.served)
        return Loading(f"{self._progress}, {time.monotonic() - self._since:.0f} s")

    @property
    def load(self) -> Load:
        """See Engine. A request that has a token is no longer waiting, whatever vLLM told before."""
        told = self._backend.load if self._backend else Load()
        waiting = min(told.waiting, self._inside - self._begun)
        return Load(self._inside - waiting, waiting, told.cache_blocks, told.cache_blocks_used)

    def start(self) -> None:
        """See Engine."""
        self._loop = asyncio.new_event_loop()
        # Not a daemon: at its end the process waits until vLLM's processes have ended.
        threading.Thread(target=self._run, args=(self._loop,), name="vllm").start()

    def stop(self) -> None:
        """See Engine."""
        self._stopping.set()
        if self._backend is None:
            _end_processes()  # which load; nobody else would
        if self._loop:
            with suppress(RuntimeError):  # it is closed: the thread has ended
                self._loop.call_soon_threadsafe(self._over.set)

    async def generate(self, request: Generation) -> AsyncGenerator[Step]:
        """See Engine."""
        from inference_server.engines.tokenizer import ending, grammar

        backend, loop = self._backend, self._loop
        if self._stopping.is_set():
            raise Stopped("the server stops")
        if backend is None or loop is None:
            raise EngineError("the engine is started again")
        tokenizer = backend.served.tokenizer
        asked = wanted(ending(request, ends=backend.ends, tokenizer=tokenizer), ends=backend.ends)
        await asyncio.to_thread(grammar, tokenizer, request)  # says what is wrong with it, as other engines do
        here, steps = asyncio.get_running_loop(), asyncio.Queue[Step | EngineError | None]()

        def put(step: Step | EngineError | None) -> None:
            here.call_soon_threadsafe(steps.put_nowait, step)

        running = asyncio.run_coroutine_threadsafe(self._pump(backend, asked, put), loop)
        number, begun = asked.sampling.get("n", 1), 0
        self._inside += number
        try:
            while (step := await steps.get()) is not None:
                if isinstance(step, EngineError):
                    raise step
                self._begun += number - begun
                begun = number
                yield step
        finally:
            self._inside -= number
            self._begun -= begun
            running.cancel()

    async def _pump(self, backend: Backend, asked: Wanted, put: Callable[[Step | EngineError | None], None]) -> None:
        """On vLLM's loop: cancelling it closes vLLM's iterator, and that aborts the request."""
        try:
            async with aclosing(backend.generate(asked, uuid.uuid4().hex)) as steps:
                async for step in steps:
                    put(step)
            put(None)
        except asyncio.CancelledError:
            stops = self._stopping.is_set()
            put(Stopped("the server stops") if stops else EngineError("the engine failed on this request"))
            raise
        except EngineError as error:
            put(error)
        except ValueError as error:
            put(InvalidParameters(" ".join(str(error).split())))
        except Exception as error:
            if not backend.dead:  # whose end is counted where it is seen
                log.exception("vLLM failed")
                self._failures.add()
            put(EngineError(f"the engine failed on this request: {type(error).__name__}"))

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread: loads, serves, and begins anew where vLLM's processes ended of themselves."""
        self._progress = "vLLM loads the model"
        while not self._stopping.is_set() and isinstance(self.state, Loading):
            self._since = time.monotonic()
            try:
                self._live(loop)
            except Exception as error:  # noqa: BLE001  (whatever kept it from loading is what the state says)
                self._failed = " ".join(f"{type(error).__name__}: {error}".split())
            self._progress = "vLLM ended and loads the model again"
        loop.close()

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        """One life of vLLM: load, a first token, then the loop until the end. Raises what keeps it from loading."""
        backend = self._make(self._settings)
        try:
            loop.run_until_complete(self._first_token(backend))
            self._backend = backend
            loop.run_until_complete(self._until_over(backend))
        finally:
            backend.shutdown()

    async def _until_over(self, backend: Backend) -> None:
        """Until the engine is stopped or vLLM is dead; then nothing runs any more."""
        while not self._over.is_set() and not backend.dead and not self._failures.too_many:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), LOOK_SECONDS)
        if backend.dead and not self._over.is_set():
            log.error("vLLM's processes have ended; the log above has why")
            self._failures.add()
            self._backend = None
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _first_token(self, backend: Backend) -> None:
        await backend.prepare()
        prompt = tuple(backend.served.tokenizer.encode("Hello"))
        first = wanted(Generation(prompt, 1), ends=())
        async for _ in backend.generate(first, uuid.uuid4().hex):
            pass


def _end_processes() -> None:
    """Kills vLLM's processes: the one that schedules, by the name that vLLM gives it, and what that has started."""
    for scheduler in multiprocessing.active_children():
        if scheduler.name.startswith("EngineCore"):
            with suppress(psutil.NoSuchProcess):
                for each in psutil.Process(scheduler.pid).children(recursive=True):
                    each.kill()
            scheduler.kill()


def _load(settings: Settings) -> Backend:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from inference_server.engines.vllm_backend import VllmBackend

    return VllmBackend.start(settings)
