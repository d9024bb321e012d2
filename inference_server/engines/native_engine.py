"""The engine of our own for the llama family: many requests in one step, by one thread that owns the model."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Sequence_
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference_server.engines.engine import (
    EngineError,
    Failed,
    Finish,
    Generation,
    Load,
    Loading,
    OutOfMemory,
    Ready,
    State,
    Step,
    Stopped,
)
from inference_server.engines.supervision import Failures
from inference_server.settings import Settings

if TYPE_CHECKING:
    from inference_server.engines.native.scheduler import Sequence
    from inference_server.engines.native.served import NativeModel

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Asked:
    """One sequence on its way, with the way back to who asked."""

    sequence: "Sequence"
    ends: tuple[int, ...]
    number: int
    loop: asyncio.AbstractEventLoop
    steps: asyncio.Queue[Step | Exception]


class NativeEngine:
    """An Engine that batches continuously. Other threads only put into its inbox and set flags."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._progress, self._since = "not started", time.monotonic()
        self._stopping = threading.Event()
        self._inbox: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._model: Future[NativeModel] = Future()
        self._asked: dict[Sequence, _Asked] = {}
        self._gate = threading.Lock()
        self._ended: EngineError | None = None
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
        if self._ended is not None and not self._stopping.is_set():
            return Failed(str(self._ended))
        return Ready(self._model.result().served)

    @property
    def load(self) -> Load:
        """See Engine."""
        ready = self._model.done() and self._model.exception() is None
        return self._model.result().work if ready else Load()

    def start(self) -> None:
        """See Engine."""
        self._since = time.monotonic()
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def stop(self) -> None:
        """See Engine."""
        self._stopping.set()
        self._inbox.put(None)

    async def generate(self, request: Generation) -> AsyncGenerator[Step]:
        """See Engine."""
        from inference_server.engines.options import sampling as sampling_of
        from inference_server.engines.sampler import Chooser
        from inference_server.engines.tokenizer import ending, grammar

        if self._stopping.is_set():
            raise Stopped("the server stops")
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[Step | Exception]()
        model = self._model.result()
        request = ending(request, ends=model.ends, tokenizer=model.served.tokenizer)
        sampling, number = sampling_of(request, ends=model.ends)
        limit = min(request.max_new_tokens, model.served.context_length - len(request.prompt))
        grammars = [await asyncio.to_thread(grammar, model.served.tokenizer, request) for _ in range(number)]
        sequences = [
            model.sequence(request.prompt, limit, Chooser(sampling, grammar=own), adapter=request.adapter)
            for own in grammars
        ]
        asked = [_Asked(sequence, sampling.ends, n, loop, steps) for n, sequence in enumerate(sequences)]
        self._submit(asked)
        try:
            while number:
                step = await steps.get()
                if isinstance(step, Exception):
                    raise step
                number -= step.finish is not None
                yield step
        finally:
            for each in asked:
                each.sequence.cancelled = True
            self._inbox.put(None)

    def _submit(self, asked: list[_Asked]) -> None:
        """Into the inbox, unless nobody reads it any more."""
        with self._gate:
            if self._ended is not None:
                raise self._ended
            for each in asked:
                self._inbox.put(each)

    def _run(self) -> None:
        """The thread: load, then step while there is work, sleep on the inbox while there is none."""
        try:
            model = self._load()
        except Exception as error:  # noqa: BLE001  (whatever kept it from loading is what the state says)
            self._model.set_exception(error)
            return
        self._model.set_result(model)
        try:
            while not (self._stopping.is_set() or self._failures.too_many):
                self._step(model)
        finally:
            stopped = Stopped("the server stops")
            self._end(stopped if self._stopping.is_set() else EngineError("it failed three times within ten minutes"))

    def _step(self, model: "NativeModel") -> None:
        """One step of all. If it fails, those who took part are told, their room is free, and the next ones go on."""
        self._take_in(model)
        try:
            told = [self._finished(model, sequence, token) for sequence, token in model.step()]
            _tell([each for each in told if each])
        except Exception as error:
            log.exception("the engine failed")
            full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            if not full:
                self._failures.add()
            reason = f"the engine failed on these requests: {type(error).__name__}"
            why = OutOfMemory("there is not enough memory for these requests") if full else EngineError(reason)
            for sequence in self._asked:
                model.finish(sequence)
            _tell([(asked, why) for asked in self._asked.values()])
            self._asked.clear()

    def _end(self, why: EngineError) -> None:
        """Whoever waits is told, and nobody can begin to wait any more."""
        with self._gate:
            self._ended = why
            while not self._inbox.empty():
                if (asked := self._inbox.get_nowait()) is not None:
                    self._asked[asked.sequence] = asked
        _tell([(asked, why) for asked in self._asked.values()])

    def _load(self) -> "NativeModel":
        self._progress = "importing torch"
        from inference_server.engines.native.served import NativeModel
        from inference_server.engines.sampler import Chooser, Sampling

        model = NativeModel.load(self._settings, say=self._say)
        self._say("generating a first token")
        first = model.sequence(model.served.tokenizer.encode("Hello"), 1, Chooser(Sampling(temperature=0.0)))
        model.add(first)
        model.step()
        model.finish(first)
        return model

    def _say(self, progress: str) -> None:
        self._progress = progress

    def _take_in(self, model: "NativeModel") -> None:
        """Everything in the inbox; waits for something only while there is nothing to compute."""
        block = not model.busy
        while True:
            try:
                asked = self._inbox.get(block=block)
            except queue.Empty:
                break
            block = False
            if asked is not None and not asked.sequence.cancelled:
                self._asked[asked.sequence] = asked
                model.add(asked.sequence)
        for gone in [sequence for sequence in self._asked if sequence.cancelled]:
            model.finish(gone)
            del self._asked[gone]

    def _finished(self, model: "NativeModel", sequence: "Sequence", token: int) -> tuple[_Asked, Step] | None:
        """What to tell of a new token, and to whom; None if it has gone. An answer that ends gives its room back."""
        asked = self._asked.get(sequence)
        if asked is None:
            return None
        finish: Finish | None = None
        if token in asked.ends:
            finish = "stop"
        elif sequence.full:
            finish = "length"
        if finish is not None:
            model.finish(sequence)
            del self._asked[sequence]
        prompt = tuple(sequence.chooser.of_prompt) if len(sequence.tokens) == sequence.prompt_length + 1 else ()
        told = sequence.chooser.told
        return asked, Step((token,), sequence=asked.number, finish=finish, logprobs=told, prompt=prompt)


def _tell(told: Sequence_[tuple[_Asked, Step | Exception]]) -> None:
    """Wakes each event loop once, however many of its requests have news: waking costs more than telling."""
    for loop in {asked.loop for asked, _ in told}:
        news = [(asked.steps, step) for asked, step in told if asked.loop is loop]
        loop.call_soon_threadsafe(_put, news)


def _put(news: Sequence_[tuple[asyncio.Queue[Step | Exception], Step | Exception]]) -> None:
    for steps, step in news:
        steps.put_nowait(step)
