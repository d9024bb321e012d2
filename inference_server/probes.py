"""Whether the server lives, whether it answers, and what it measured: the routes that ask for no key."""

import asyncio
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from inference_server.engines.engine import Failed, Loading, Ready
from inference_server.server import Server

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def application(server: Server) -> FastAPI:
    """The application behind ``--health_port``: probes and metrics, nothing else."""
    app = FastAPI(title="KAITO inference server: health and metrics", version="0.1.0")
    app.include_router(health(server))
    app.include_router(measured(server))
    return app


def health(server: Server) -> APIRouter:
    """What kubelets ask. Takes no lock and no thread, so it is answered however much there is to do."""
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

    return router


def measured(server: Server) -> APIRouter:
    """What Prometheus asks, and KAITO's clients."""
    router = APIRouter()

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}, "application/json": {}}}})
    async def metrics(request: Request) -> Response:
        """Prometheus' text, or KAITO's JSON for ``Accept: application/json``."""
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(await run_in_threadpool(server.metrics.hardware))
        server.metrics.tasks.set(len(asyncio.all_tasks()))
        return Response(await run_in_threadpool(server.metrics.text), media_type=PROMETHEUS)

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
