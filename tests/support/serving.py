"""The inference server as a process, and as an application in this one."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvicorn
from starlette.types import ASGIApp

from tests.support import vllm
from tests.support.cluster import eventually
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
MOST = 540.0
"""Seconds until a server is ready, a minute less than a test may take: vLLM starts in a minute of an idle processor."""


@dataclass(frozen=True)
class ServerProcess:
    """A running ``python -m inference_server``."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    engine: str = "auto"

    def wait_until(self, path: str, *, within: float = MOST) -> None:
        """Waits until a GET of the path says 200."""
        eventually(lambda: self._alive() and self.status(path) == 200, within=within, what=f"200 from {path}")

    def status(self, path: str) -> int:
        """The status of a GET; 0 while nobody listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=10).status_code
        except httpx.TransportError:
            return 0

    def terminate(self, *, within: float = 120) -> int:
        """Sends SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def _alive(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
        return True


@contextmanager
def serving(model: Path, *flags: str, log: Path) -> Iterator[ServerProcess]:
    """The server of a model, from its start to its end, however the test ends."""
    port = free_port()
    with_vllm = "--engine=vllm" in flags
    python = str(vllm.python()) if with_vllm else sys.executable
    command = [python, "-m", "inference_server", f"--pretrained_model_name_or_path={model}", f"--port={port}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--host=127.0.0.1", *flags],
            cwd=ROOT,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(vllm.ENVIRONMENT if with_vllm else {})},
        )
    try:
        yield ServerProcess(process, f"http://127.0.0.1:{port}", log)
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With what it has started, which vLLM's processes would outlive."""
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.kill()
    process.wait()


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """An application behind a real socket, in a thread of this process; its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
