"""The HTTP server over an engine: ``create_app(engine, settings)``. Nothing loads before the server starts."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from inference_server import chat, limits, metrics
from inference_server.engines.engine import (
    Engine,
    EngineError,
    Failed,
    Generation,
    InvalidParameters,
    Loading,
    Ready,
    ServedModel,
)
from inference_server.errors import BadRequest, Refusal, Unavailable
from inference_server.limits import Admission
from inference_server.metrics import Metrics
from inference_server.schemas import ChatReply, ChatRequest, ErrorReply, parse
from inference_server.settings import Settings

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (400, 408, 413, 415, 422, 429, 503)
}


@dataclass(frozen=True, slots=True)
class Server:
    """What the routes share."""

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


def create_app(engine: Engine, settings: Settings, *, admission: Admission | None = None) -> FastAPI:
    """The application; its start starts the engine, its end stops it. ``admission`` lets the caller close the door."""
    door = admission or Admission(places=settings.max_waiting + 1)
    server = Server(engine, settings, door, Metrics(engine, admission=door))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()

    app = FastAPI(title="KAITO inference server", version="0.1.0", lifespan=lifespan)
    app.include_router(_probes(server))
    app.include_router(_chat(server))

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        server.metrics.requests.labels(refusal.status).inc()
        headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else None
        return JSONResponse({"detail": refusal.detail}, refusal.status, headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        server.metrics.requests.labels(500).inc()
        return JSONResponse({"detail": f"Internal Server Error ({type(error).__name__}); the log has more"}, 500)

    return app


def _probes(server: Server) -> APIRouter:
    router = APIRouter()

    @router.get("/")
    async def home() -> dict[str, str]:
        return {"message": "Server is running"}

    @router.get("/healthz")
    async def live() -> dict[str, str]:
        """Whether the process lives: also while it loads."""
        state = server.engine.state
        return {"status": "Healthy", **({"loading": state.progress} if isinstance(state, Loading) else {})}

    @router.get("/readyz", responses={503: {"description": "loading, draining or failed"}})
    async def ready() -> Response:
        """Whether requests are answered."""
        status, content = _readiness(server)
        return JSONResponse(content, status)

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}, "application/json": {}}}})
    async def measured(request: Request) -> Response:
        """Prometheus' text, or KAITO's JSON for ``Accept: application/json``."""
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(await metrics.hardware())
        return Response(server.metrics.text(), media_type=PROMETHEUS)

    return router


def _readiness(server: Server) -> tuple[int, dict[str, Any]]:
    if server.admission.closed:
        return 503, {"status": "draining", "answering": server.admission.inside}
    match server.engine.state:
        case Loading(progress):
            return 503, {"status": "loading", "progress": progress}
        case Failed(reason):
            return 503, {"status": "failed", "reason": reason}
        case Ready(model):
            return 200, {"status": "ready", "model": model.name}


def _chat(server: Server) -> APIRouter:
    router = APIRouter()
    body = {
        "requestBody": {"content": {"application/json": {"schema": ChatRequest.model_json_schema()}}, "required": True}
    }

    @router.post("/chat", response_model=ChatReply, responses=REPLIES, openapi_extra=body)
    async def answer(request: Request) -> Response:
        """KAITO's endpoint: a prompt goes on, or a conversation gets its reply."""
        began, model = time.monotonic(), server.model()
        sent = await limits.read_json(
            request, most=server.settings.max_body_bytes, seconds=server.settings.body_seconds
        )
        with server.admission.place():
            asked = await run_in_threadpool(parse, sent, as_a=ChatRequest)
            turn = await run_in_threadpool(chat.prepare, asked, model=model, pipeline=server.settings.pipeline)
            sequences = await limits.while_wanted(request, _collect(server, turn.generation, began=began))
            result = await run_in_threadpool(chat.result, turn, sequences, model=model)
        server.metrics.requests.labels(200).inc()
        server.metrics.request_seconds.observe(time.monotonic() - began)
        return JSONResponse({"Result": result})

    return router


async def _collect(server: Server, generation: Generation, *, began: float) -> list[list[int]]:
    """The tokens of each sequence, all of them at the end. Raises a Refusal for what the engine cannot do."""
    sequences: dict[int, list[int]] = {}
    try:
        async with aclosing(server.engine.generate(generation)) as steps:
            async for step in steps:
                if not sequences:
                    server.metrics.first_token_seconds.observe(time.monotonic() - began)
                sequences.setdefault(step.sequence, []).extend(step.tokens)
                server.metrics.generated_tokens.inc(len(step.tokens))
    except InvalidParameters as error:
        raise BadRequest(f"generate_kwargs: {error}") from error
    except EngineError as error:
        raise Unavailable(str(error)) from error
    server.metrics.prompt_tokens.inc(len(generation.prompt))
    return [sequences[number] for number in sorted(sequences)]
