"""The HTTP server over an engine: ``create_app(engine, settings)``. Nothing loads before the server starts."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from inference_server import chat, limits, openai_routes, probes
from inference_server.description import body, describe
from inference_server.door import Door
from inference_server.engines.engine import Engine, Generation
from inference_server.errors import Refusal, envelope, error
from inference_server.headers import REQUEST_ID, RequestIds
from inference_server.keys import guard, known
from inference_server.limits import Admission
from inference_server.metrics import Metrics
from inference_server.schemas import ChatReply, ChatRequest, ErrorReply, parse
from inference_server.server import Server, places
from inference_server.settings import Settings

REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (400, 408, 413, 415, 422, 429, 503)
}


def create_app(engine: Engine, settings: Settings, *, admission: Admission | None = None) -> FastAPI:
    """The application; its start starts the engine, its end stops it. ``admission`` lets the caller close the door."""
    door = admission or Admission(places=partial(places, engine, settings))
    return application(Server(engine, settings, door, Metrics(engine, admission=door)))


def application(server: Server) -> FastAPI:
    """See create_app."""
    engine, settings = server.engine, server.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()

    app = FastAPI(title="KAITO inference server", version="0.1.0", lifespan=lifespan)
    app.include_router(probes.health(server))
    if settings.health_port is None:
        app.include_router(probes.measured(server))
    guarded = [Depends(guard(Path(settings.api_keys_file)))] if settings.api_keys_file else []
    app.include_router(_chat(server), dependencies=guarded)
    app.include_router(openai_routes.routes(server), dependencies=guarded)
    describe(app, ChatRequest, *openai_routes.BODIES)
    _add_errors(app, server)
    app.add_middleware(Door, admission=server.admission, metrics=server.metrics, known=_bearer(settings))
    if settings.allowed_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(RequestIds)
    return app


def _bearer(settings: Settings) -> Callable[[str], bool]:
    """Whether a header ``Authorization`` opens this server."""
    if not settings.api_keys_file:
        return lambda _: True
    return partial(known, path=Path(settings.api_keys_file))


def _add_errors(app: FastAPI, server: Server) -> None:
    """Each in the envelope of its API."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if refusal.status == 408:
            headers["Connection"] = "close"  # the rest of the body is not waited for
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


def _chat(server: Server) -> APIRouter:
    router = APIRouter()

    @router.post("/chat", response_model=ChatReply, responses=REPLIES, openapi_extra=body(ChatRequest))
    async def answer(request: Request) -> Response:
        """KAITO's endpoint: a prompt goes on, or a conversation gets its reply."""
        began, model = time.monotonic(), server.model()
        sent = await limits.read_json(request, settings=server.settings)
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
