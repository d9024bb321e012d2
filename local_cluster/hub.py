"""A Hugging Face Hub for the local cluster, so that a model can be asked for by its id without the Internet.

It has the embedded model, once for everybody and once for those who show a token, and speaks what huggingface-hub asks
for: a repository's description, and its files by commit, with ranges.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

PORT = 8092
PUBLIC, GATED = "local/smollm2", "local/smollm2-gated"
TOKEN = "hf_local"  # noqa: S105 - known to all, as the Hub is reached from inside the cluster alone
SECRET = "hub-token"  # noqa: S105 - a name


def token_secret(namespace: str = "default") -> dict[str, Any]:
    """The Secret that opens the gated model: to Workspaces that name it, and to the operator, to see its size."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace},
        "stringData": {"HF_TOKEN": TOKEN},
    }


def app(model: Path | None) -> "web.Application":
    """Serves the model's directory under both ids; nothing where there is none."""
    from aiohttp import web  # slow to import, and most commands need the port alone

    served = web.Application()
    if model is None:
        return served
    for id in (PUBLIC, GATED):
        repository = _Repository(id, model, gated=id == GATED)
        served.router.add_get(f"/api/models/{id}/revision/{{revision}}", repository.description)
        served.router.add_get(f"/{id}/resolve/{{revision}}/{{name}}", repository.file)
    return served


class _Repository:
    """One model. Its commit follows from its files, as a Hub's does."""

    def __init__(self, id: str, directory: Path, *, gated: bool) -> None:
        self._id, self._directory, self._gated = id, directory, gated
        self._sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.is_file()}
        self._commit = hashlib.sha1(json.dumps([id, self._sizes]).encode(), usedforsecurity=False).hexdigest()

    async def description(self, request: "web.Request") -> "web.StreamResponse":
        """What everybody may know, also of a gated model."""
        from aiohttp import web

        if request.match_info["revision"] not in ("main", self._commit):
            raise web.HTTPNotFound(headers={"x-error-code": "RevisionNotFound"})
        siblings = [{"rfilename": name, "size": size} for name, size in self._sizes.items()]
        told = {"id": self._id, "sha": self._commit, "gated": "auto" if self._gated else False, "siblings": siblings}
        return web.json_response({**told, "cardData": {"license": "apache-2.0"}})

    async def file(self, request: "web.Request") -> "web.StreamResponse":
        """A file, or a part of it; of a gated model to those with a token."""
        from aiohttp import web

        name = request.match_info["name"]
        if self._gated and request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise web.HTTPForbidden(headers={"x-error-code": "GatedRepo"})
        if name not in self._sizes:
            raise web.HTTPNotFound(headers={"x-error-code": "EntryNotFound"})
        return web.FileResponse(self._directory / name, headers={"x-repo-commit": self._commit})
