"""The local cluster's image registry: its configuration, its one user, and the Secret that examples push with."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PORT = 5000
USER = "kaito"
PASSWORD = "kaito-local"  # noqa: S105 - known to all, as the registry is reached from inside the cluster alone
HTPASSWD = f"{USER}:$2b$05$kaitokaitokaitokaitoker4zeedPxuZqGMZIGq30Axt.DhZuxN1a\n"
"""PASSWORD by bcrypt, the only hash that the registry takes and that Python has no function for."""
SECRET = "registry-login"  # noqa: S105 - a name


def configuration(directory: Path, *, address: str) -> dict[str, Any]:
    """What ``registry serve`` reads; JSON is YAML too. The files are below ``directory``."""
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": address, "relativeurls": True},
        "auth": {"htpasswd": {"realm": "kaito local", "path": str(directory / "htpasswd")}},
    }


def docker_config(host: str, *, user: str = USER, password: str = PASSWORD) -> dict[str, Any]:
    """A dockerconfigjson with one entry."""
    return {"auths": {host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}}


def login_secret(host: str) -> Mapping[str, Any]:
    """The Secret to push to and pull from the registry with."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": "default"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": json.dumps(docker_config(host))},
    }


def prepare(directory: Path, *, address: str) -> list[str]:
    """Writes the registry's files below ``directory``; the arguments to start it with."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "htpasswd").write_text(HTPASSWD)
    config = directory / "config.json"
    config.write_text(json.dumps(configuration(directory, address=address)))
    return ["serve", str(config)]
