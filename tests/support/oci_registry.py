"""A real registry process on loopback, with a user and a password."""

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_cluster import binaries
from local_cluster.registry import HTPASSWD, PASSWORD, USER, configuration, docker_config
from tests.support.ports import free_port
from tests.support.waiting import eventually


@dataclass(frozen=True)
class RunningRegistry:
    """Where it answers, and a dockerconfigjson for a host that leads to it."""

    host: str
    storage: Path

    def auth_file(self, directory: Path, *, host: str = "", password: str = PASSWORD) -> Path:
        path = directory / ".dockerconfigjson"
        path.write_text(json.dumps(docker_config(host or self.host, user=USER, password=password)))
        return path


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[RunningRegistry]:
    """Runs the registry in a directory."""
    program = binaries.find("registry")["registry"]
    host = f"127.0.0.1:{free_port()}"
    (directory / "htpasswd").write_text(HTPASSWD)
    config = directory / "config.json"
    config.write_text(json.dumps(configuration(directory, address=host)))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        eventually(lambda: _answers(host), within=20, what="the registry answers")
        yield RunningRegistry(host, directory / "storage")
    finally:
        process.kill()
        process.wait()


def _answers(host: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{host}/v2/", timeout=2)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False
    return True
