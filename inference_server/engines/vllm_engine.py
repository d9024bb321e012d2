"""vLLM as an engine, for images that have it: its AsyncLLM on an event loop of its own, behind our protocol.

The seam is ``Backend``: what of vLLM is used. Nothing of vLLM is imported before ``start``. It is written against the
documented API of vLLM 0.20 to 0.33, and has not been run on a GPU.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inference_server.engines.engine import (
    EngineError,
    Failed,
    Finish,
    Generation,
    InvalidParameters,
    Load,
    Loading,
    Ready,
    ServedModel,
    State,
    Step,
    Stopped,
    TokenLogprob,
)
from inference_server.settings import Settings

log = logging.getLogger(__name__)

SAME = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed",
        "ignore_eos", "logit_bias")  # fmt: skip
"""Options that vLLM's SamplingParams has under the same name and with the same meaning."""
NEUTRAL: Mapping[str, Any] = {
    "early_stopping": False, "num_beams": 1, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "length_penalty": 1.0, "no_repeat_ngram_size": 0, "renormalize_logits": False, "remove_invalid_values": False,
}  # fmt: skip
"""Options of transformers that are taken only where they change nothing."""
READ = {*SAME, "do_sample", "min_length", "min_new_tokens", "num_return_sequences", "eos_token_id", "pad_token_id",
        "top_logprobs", "json_schema", "grammar"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """What vLLM gave of one sequence since the last time."""

    sequence: int
    tokens: tuple[int, ...]
    finish: str | None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request in vLLM's words."""

    prompt: tuple[int, ...]
    sampling: Mapping[str, Any]
    """Arguments of SamplingParams."""
    structured: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of StructuredOutputsParams; empty for free text."""
    adapter: str | None = None


class Backend(Protocol):
    """vLLM, loaded; used on one event loop alone."""

    @property
    def served(self) -> ServedModel:
        """What it serves."""
        ...

    def generate(self, wanted: Wanted, request_id: str) -> AsyncGenerator[Sequence[Piece]]:
        """The pieces as they come; closing it aborts the request. Raises ValueError for what vLLM refuses."""
        ...

    def shutdown(self) -> None:
        """Ends its processes."""
        ...


def wanted(request: Generation) -> Wanted:
    """The request in vLLM's words. Raises InvalidParameters for what only transformers can do."""
    options = {key: value for key, value in request.options.items() if value is not None}
    for key, neutral in NEUTRAL.items():
        if options.pop(key, neutral) != neutral:
            raise InvalidParameters(f"{key} needs a server with --engine=transformers")
    if unknown := options.keys() - READ:
        raise InvalidParameters(f"{min(unknown)} needs a server with --engine=transformers")
    sampling: dict[str, Any] = {key: options[key] for key in SAME if key in options}
    if not options.get("do_sample", False):
        sampling["temperature"] = 0.0
    ends = options.get("eos_token_id")
    least = max(options.get("min_new_tokens", 0), options.get("min_length", 0) - len(request.prompt))
    extra = {
        "stop_token_ids": [ends] if isinstance(ends, int) else ends,
        "min_tokens": max(least, 0) or None,
        "logprobs": options.get("top_logprobs"),
        "n": options.get("num_return_sequences"),
    }
    sampling |= {key: value for key, value in extra.items() if value is not None}
    structured = {"json": options.get("json_schema"), "grammar": options.get("grammar")}
    return Wanted(
        prompt=request.prompt,
        sampling={**sampling, "max_tokens": request.max_new_tokens, "detokenize": False},
        structured={key: value for key, value in structured.items() if value},
        adapter=request.adapter,
    )


class VllmEngine:
    """An Engine over vLLM. ``load`` makes the backend; it takes minutes and runs in the engine's thread."""

    def __init__(self, settings: Settings, *, load: Callable[[Settings], Backend] | None = None) -> None:
        self._settings = settings
        self._make = load or _load
        self._loop: asyncio.AbstractEventLoop | None = None
        self._backend: Future[Backend] = Future()
        self._since = time.monotonic()
        self._stopping = threading.Event()
        self._over = asyncio.Event()
        self._dead = ""
        self._inside = 0

    @property
    def state(self) -> State:
        """See Engine."""
        if not self._backend.done():
            return Loading(f"vLLM loads the model, {time.monotonic() - self._since:.0f} s")
        if error := self._backend.exception():
            return Failed(" ".join(f"{type(error).__name__}: {error}".split()))
        return Failed(self._dead) if self._dead else Ready(self._backend.result().served)

    @property
    def load(self) -> Load:
        """See Engine. What waits within vLLM counts as running."""
        return Load(running=self._inside)

    def start(self) -> None:
        """See Engine."""
        self._since = time.monotonic()
        threading.Thread(target=self._run, name="vllm", daemon=True).start()

    def stop(self) -> None:
        """See Engine."""
        self._stopping.set()
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed: the thread has ended
                self._loop.call_soon_threadsafe(self._over.set)

    async def generate(self, request: Generation) -> AsyncGenerator[Step]:
        """See Engine."""
        if self._stopping.is_set() or self._loop is None:
            raise Stopped("the server stops")
        asked, here = wanted(request), asyncio.get_running_loop()
        steps: asyncio.Queue[Step | EngineError | None] = asyncio.Queue()

        def put(step: Step | EngineError | None) -> None:
            here.call_soon_threadsafe(steps.put_nowait, step)

        running = asyncio.run_coroutine_threadsafe(self._pump(asked, put), self._loop)
        self._inside += 1
        try:
            while (step := await steps.get()) is not None:
                if isinstance(step, EngineError):
                    raise step
                yield step
        finally:
            self._inside -= 1
            running.cancel()

    async def _pump(self, asked: Wanted, put: Callable[[Step | EngineError | None], None]) -> None:
        """On vLLM's loop: cancelling it closes vLLM's iterator, and that aborts the request."""
        try:
            async for step in self._steps(self._backend.result(), asked):
                put(step)
            put(None)
        except asyncio.CancelledError:
            put(Stopped("the server stops"))
            raise
        except ValueError as error:
            put(InvalidParameters(" ".join(str(error).split())))
        except Exception as error:
            log.exception("vLLM failed")
            self._dead = f"vLLM failed: {type(error).__name__}"
            put(EngineError(f"the engine failed on this request: {type(error).__name__}"))

    async def _steps(self, backend: Backend, asked: Wanted) -> AsyncGenerator[Step]:
        async with aclosing(backend.generate(asked, uuid.uuid4().hex)) as pieces:
            async for several in pieces:
                for piece in several:
                    finish: Finish | None = "length" if piece.finish == "length" else None
                    finish = "stop" if piece.finish == "stop" else finish
                    yield Step(piece.tokens, piece.sequence, finish, piece.logprobs)

    def _run(self) -> None:
        """The thread: load, a first token, then the loop until the end."""
        loop = self._loop = asyncio.new_event_loop()
        try:
            backend = self._make(self._settings)
            loop.run_until_complete(self._first_token(backend))
        except Exception as error:  # noqa: BLE001  (whatever kept it from loading is what the state says)
            loop.close()
            self._backend.set_exception(error)
            return
        self._backend.set_result(backend)
        if self._stopping.is_set():
            self._over.set()
        loop.run_until_complete(self._until_stopped())
        loop.close()
        backend.shutdown()

    async def _until_stopped(self) -> None:
        await self._over.wait()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _first_token(self, backend: Backend) -> None:
        prompt = tuple(backend.served.tokenizer.encode("Hello"))
        async for _ in self._steps(backend, wanted(Generation(prompt, 1))):
            pass


def adapters(directory: Path) -> dict[str, Path]:
    """The adapters that vLLM is told of; it reads and judges them itself when they are first asked for."""
    found = (each.parent for each in directory.glob("*/adapter_config.json"))
    return {each.name: each for each in sorted(found) if (each / "adapter_model.safetensors").is_file()}


def _load(settings: Settings) -> Backend:
    from inference_server.engines.vllm_backend import VllmBackend

    return VllmBackend.load(settings)
