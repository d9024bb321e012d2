"""``python -m inference_server --pretrained_model_name_or_path DIR --port N``: serves one model until SIGTERM."""

import logging
import os
import socket
import sys
import time
from types import FrameType

import uvicorn
from typing_extensions import override

from inference_server.app import create_app
from inference_server.engines.choice import NoSuchEngine, choose
from inference_server.engines.engine import Engine, Failed, Loading
from inference_server.limits import Admission
from inference_server.settings import Settings, parse
from presets.model_directory import model_directory

log = logging.getLogger("inference_server")


class DrainingServer(uvicorn.Server):
    """A server that answers what it has before it goes: on SIGTERM the door closes, /readyz says so, the port stays."""

    def __init__(self, settings: Settings) -> None:
        self.engine: Engine = choose(settings, say=log.info)
        self._admission = Admission(places=settings.max_waiting + 1)
        self._grace_seconds = settings.grace_seconds
        self._deadline = float("inf")
        app = create_app(self.engine, settings, admission=self._admission)
        # Whoever is inside has had the grace period already, so what is left is to send what is written.
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))

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
        server = DrainingServer(settings.model_copy(update={"pretrained_model_name_or_path": place}))
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except NoSuchEngine as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        log.error("cannot listen on %s port %d: %s", settings.host, settings.port, error.strerror)
        return 1
    log.info("listening on %s port %d", settings.host, settings.port)
    server.run(sockets=[listener])
    state = server.engine.state
    if isinstance(state, Failed):
        log.error("%s cannot be served: %s", settings.pretrained_model_name_or_path, state.reason)
        return 1
    if isinstance(state, Loading):
        logging.shutdown()
        os._exit(0)  # a thread reads a model, and may for minutes; there is nothing to finish
    return 0


if __name__ == "__main__":
    sys.exit(main())
