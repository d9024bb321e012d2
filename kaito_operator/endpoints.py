"""/metrics on one port; /healthz and /readyz on another, as KAITO's processes have them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from kaito_operator.metrics import Metrics

Probe = Callable[[], str | None]
"""None if all is well, else what is wrong."""


def _probe_app(healthy: Probe, ready: Probe) -> web.Application:
    def answering(probe: Probe) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            wrong = probe()
            return web.Response(status=200 if wrong is None else 503, text=wrong or "ok")

        return answer

    app = web.Application()
    app.router.add_get("/healthz", answering(healthy))  # type: ignore[arg-type]  # aiohttp wants the exact coroutine type
    app.router.add_get("/readyz", answering(ready))  # type: ignore[arg-type]
    return app


def _metrics_app(metrics: Metrics) -> web.Application:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    return app


@asynccontextmanager
async def endpoints(
    metrics: Metrics, *, healthy: Probe, ready: Probe, metrics_port: int, health_port: int
) -> AsyncIterator[None]:
    """Serves both while the context is open."""
    runners = []
    try:
        for app, port in ((_probe_app(healthy, ready), health_port), (_metrics_app(metrics), metrics_port)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, "0.0.0.0", port).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
