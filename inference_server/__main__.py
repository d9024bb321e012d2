"""``python -m inference_server --pretrained_model_name_or_path DIR --port N``: serves one model until SIGTERM."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from inference_server import probes
from inference_server.app import application
from inference_server.engines.choice import NoSuchEngine, choose
from inference_server.engines.engine import Engine, Failed, Loading
from inference_server.limits import Admission
from inference_server.metrics import Metrics
from inference_server.server import Server, places
from inference_server.settings import Settings, parse
from presets import openmp
from presets.model_directory import model_directory

log = logging.getLogger("inference_server")


class CannotListen(Exception):
    """A port is taken, or not ours to have."""


class HealthServer(uvicorn.Server):
    """Probes and metrics on a port of their own, for as long as the other server lives."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the other server's."""
        yield


class DrainingServer(uvicorn.Server):
    """A server that answers what it has before it goes: on SIGTERM the door closes, /readyz says so, the port stays."""

    def __init__(self, settings: Settings, *, health: socket.socket | None = None) -> None:
        self.engine: Engine = choose(settings, say=log.info)
        self._admission = Admission(places=partial(places, self.engine, settings))
        self._grace_seconds = settings.grace_seconds
        self._deadline = float("inf")
        server = Server(self.engine, settings, self._admission, Metrics(self.engine, admission=self._admission))
        # Whoever is inside has had the grace period already, so what is left is to send what is written.
        super().__init__(_quiet(application(server)))
        self._health = HealthServer(_quiet(probes.application(server)))
        self._health_socket = health

    @override
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Both ports, from the first moment to the last."""
        if self._health_socket is None:
            await super().serve(sockets)
            return
        health = asyncio.ensure_future(self._health.serve([self._health_socket]))
        try:
            await super().serve(sockets)
        finally:
            self._health.should_exit = True
            await health

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal begins to drain, a second ends at once. uvicorn itself would close the port at once."""
        if self._admission.closed:
            self.should_exit = self.force_exit = True
        self._admission.close()
        self._deadline = time.monotonic() + self._grace_seconds

    @override
    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to go; uvicorn asks every 0.1 s."""
        if await super().on_tick(counter) or isinstance(self.engine.state, Failed):
            return True
        if time.monotonic() >= self._deadline:
            log.warning("%d requests are cut short after %g s", self._admission.inside, self._grace_seconds)
            self.engine.stop()
            return True
        return self._admission.closed and self._admission.inside == 0


def main() -> int:
    """0 after SIGTERM; 1 with one line if the model cannot be loaded or the port is taken; 2 for a bad flag."""
    openmp.wait_briefly()
    debug = os.environ.get("DEBUG_MODE", "").lower() == "true"
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it has several lines for what ours say in one
    settings, idle = parse(sys.argv[1:])
    if idle:
        log.warning("these flags are not known here, or change nothing: %s", " ".join(idle))
    place = model_directory(settings.pretrained_model_name_or_path)
    try:
        listener = _listen(settings.host, settings.port)
        health = None if settings.health_port is None else _listen(settings.host, settings.health_port)
        server = DrainingServer(settings.model_copy(update={"pretrained_model_name_or_path": place}), health=health)
    except (NoSuchEngine, CannotListen) as error:
        log.error("%s", error)
        return 2 if isinstance(error, NoSuchEngine) else 1
    log.info("listening on %s port %d", settings.host, settings.port)
    server.run(sockets=[listener])
    server.engine.stop()  # again, for a second signal ends without it, and the engine's threads keep a process alive
    state = server.engine.state
    if isinstance(state, Failed):
        log.error("%s cannot be served: %s", settings.pretrained_model_name_or_path, state.reason)
        return 1
    if isinstance(state, Loading):
        logging.shutdown()
        os._exit(0)  # a thread reads a model, and may for minutes; there is nothing to finish
    return 0


def _quiet(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host} port {port}: {error.strerror}") from error
    # Connections inherit it; asyncio sets it for sockets alone that name their protocol. Without it the second write of
    # a reply, and each event of a stream, waits up to 40 ms for the client to acknowledge the last.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    sys.exit(main())
