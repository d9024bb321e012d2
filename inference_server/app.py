"""The HTTP server over an engine: ``create_app(engine, settings)``. Nothing loads before the server starts."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from inference_server import chat, limits, metrics, openai_routes
from inference_server.engines.engine import Engine, Failed, Generation, Loading, Ready
from inference_server.errors import Refusal, envelope, error
from inference_server.keys import guard
from inference_server.limits import Admission
from inference_server.metrics import Metrics
from inference_server.schemas import ChatReply, ChatRequest, ErrorReply, parse
from inference_server.server import Server
from inference_server.settings import Settings

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (400, 408, 413, 415, 422, 429, 503)
}


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
    guarded = [Depends(guard(Path(settings.api_keys_file)))] if settings.api_keys_file else []
    app.include_router(_chat(server), dependencies=guarded)
    app.include_router(openai_routes.routes(server), dependencies=guarded)
    _add_errors(app, server)
    return app


def _add_errors(app: FastAPI, server: Server) -> None:
    """Each in the envelope of its API."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        status, content = envelope(refusal) if _openai(request) else (refusal.status, {"detail": refusal.detail})
        server.metrics.requests.labels(status).inc()
        return JSONResponse(content, status, headers)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, problem: HTTPException) -> Response:
        content = error(problem.detail, status=problem.status_code) if _openai(request) else {"detail": problem.detail}
        return JSONResponse(content, problem.status_code, problem.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, problem: Exception) -> Response:
        server.metrics.requests.labels(500).inc()
        detail = f"Internal Server Error ({type(problem).__name__}); the log has more"
        return JSONResponse(error(detail, status=500) if _openai(request) else {"detail": detail}, 500)


def _openai(request: Request) -> bool:
    return request.url.path.startswith(("/v1/", "/tokenize", "/detokenize"))


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
            refused = {"refused_adapters": dict(model.refused_adapters)} if model.refused_adapters else {}
            return 200, {"status": "ready", "model": model.default_adapter or model.name, **refused}


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
        server.answered(began=began)
        return JSONResponse({"Result": result})

    return router


async def _collect(server: Server, generation: Generation, *, began: float) -> list[list[int]]:
    """The tokens of each sequence, all of them at the end. Raises a Refusal for what the engine cannot do."""
    sequences: dict[int, list[int]] = {}
    async with aclosing(server.steps(generation, began=began, field="generate_kwargs: ")) as steps:
        async for step in steps:
            sequences.setdefault(step.sequence, []).extend(step.tokens)
    return [sequences[number] for number in sorted(sequences)]
