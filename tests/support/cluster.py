"""A whole local cluster for the system tests, driven by the commands a user has."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import eventually as eventually

ROOT = Path(__file__).parent.parent.parent
KAITO = Path(sys.executable).parent / "kaito"
ARM = "http://10.244.255.1:10443"
ASK = """
import sys, time, urllib.error, urllib.request
method, url, body = sys.argv[1:]
headers = {"Content-Type": "application/json", "Accept": "application/json"}
asked = urllib.request.Request(url, method=method, data=body.encode() or None, headers=headers)
while True:
    try:
        sys.stdout.write(urllib.request.urlopen(asked).read().decode())
        break
    except urllib.error.HTTPError as refused:
        sys.exit(f"{refused}: {refused.read().decode()}")
    except urllib.error.URLError:
        time.sleep(0.2)
"""
"""A Service leads to its pods a moment after they are ready: kube-proxy is told, too."""


@dataclass(frozen=True)
class LocalCluster:
    """One named cluster. ``up`` is idempotent; ``down`` leaves nothing."""

    name: str

    @property
    def audit_log(self) -> Path:
        """One JSON line per request to its API server."""
        return Path(self.status()["kubeconfig"]).parent / "logs" / "audit.log"

    def status(self) -> dict[str, Any]:
        """``kaito local status``."""
        found: dict[str, Any] = json.loads(
            self._kaito("local", "status", "--name", self.name, "-o", "json", timeout=180)
        )
        return found

    def up(self, *flags: str) -> None:
        """Start it, operators included unless ``--bare`` is asked for."""
        self._kaito("local", "up", "--name", self.name, *flags, timeout=900)

    def down(self) -> None:
        """Stop it."""
        self._kaito("local", "down", "--name", self.name, timeout=300)  # images of containers are gigabytes

    def run(self, *command: str, check: bool = True, stdin: str | None = None, timeout: float = 300) -> str:
        """A command in the cluster's network; its standard output. Raises with both streams if it fails."""
        return self._kaito(
            "local", "run", "--name", self.name, "--", *command, check=check, stdin=stdin, timeout=timeout
        )

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """kubectl inside the cluster."""
        return self.run("kubectl", *arguments, check=check, stdin=stdin)

    def get(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get … -o json``, parsed."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The items of ``kubectl get … -o json``."""
        found: list[dict[str, Any]] = self.get(*arguments)["items"]
        return found

    def apply(self, manifest: str) -> str:
        """Server-side apply of YAML text; the combined answer."""
        return self.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)

    def http(self, url: str, *, method: str = "GET", body: object = None, timeout: float = 120) -> Any:
        """A JSON request from inside the cluster's network."""
        text = self.run(
            sys.executable, "-c", ASK, method, url, json.dumps(body) if body is not None else "", timeout=timeout
        )
        return json.loads(text) if text else None

    def _kaito(self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float) -> str:
        done = subprocess.run(
            [str(KAITO), *arguments],
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"kaito {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr
