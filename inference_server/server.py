"""What the routes share: the engine, its limits and its metrics, and an engine's steps as a request's answer."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from inference_server.engines.engine import (
    Engine,
    EngineError,
    Failed,
    Generation,
    InvalidParameters,
    Loading,
    Ready,
    ServedModel,
    Step,
)
from inference_server.errors import BadRequest, Refusal, Unavailable
from inference_server.limits import Admission
from inference_server.metrics import Metrics
from inference_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Server:
    """One engine behind HTTP."""

    engine: Engine
    settings: Settings
    admission: Admission
    metrics: Metrics

    def model(self) -> ServedModel:
        """The model, if it can be asked. Raises Unavailable."""
        match self.engine.state:
            case Loading(progress):
                raise Unavailable(f"the model is not loaded yet: {progress}")
            case Failed(reason):
                raise Unavailable(f"the model could not be loaded: {reason}")
            case Ready(model):
                return model

    async def steps(self, generation: Generation, *, began: float, field: str = "") -> AsyncGenerator[Step]:
        """The engine's steps, counted. Raises a Refusal for what it cannot do; ``field`` is put before the reason."""
        first = True
        try:
            async with aclosing(self.engine.generate(generation)) as steps:
                async for step in steps:
                    if first:
                        self.metrics.first_token_seconds.observe(time.monotonic() - began)
                    first = False
                    self.metrics.generated_tokens.inc(len(step.tokens))
                    yield step
        except InvalidParameters as error:
            raise BadRequest(f"{field}{error}") from error
        except EngineError as error:
            raise Unavailable(str(error)) from error
        self.metrics.prompt_tokens.inc(len(generation.prompt))

    def answered(self, *, began: float) -> None:
        """Counts a request that got its whole answer."""
        self.metrics.requests.labels(200).inc()
        self.metrics.request_seconds.observe(time.monotonic() - began)


def places(engine: Engine, settings: Settings) -> int:
    """How many requests may be inside: those that are answered at once, and those that may wait for them."""
    match engine.state:
        case Ready(model):
            return model.at_once + (model.may_wait if settings.max_waiting is None else settings.max_waiting)
        case _:
            return sys.maxsize  # nobody gets further than ``Server.model``, which says why


async def merged(streams: Sequence[AsyncGenerator[Step]]) -> AsyncGenerator[tuple[int, Step]]:
    """The steps of several answers as they come, each with its answer's number. The first error ends them all."""
    ready: asyncio.Queue[tuple[int, Step] | Refusal | None] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[Step]) -> None:
        try:
            async with aclosing(stream):
                async for step in stream:
                    ready.put_nowait((number, step))
        except Refusal as refusal:
            ready.put_nowait(refusal)
        finally:
            ready.put_nowait(None)

    pumps = [asyncio.ensure_future(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        for _ in pumps:
            while (step := await ready.get()) is not None:
                if isinstance(step, Refusal):
                    raise step
                yield step
        await asyncio.gather(*pumps)
    finally:
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
