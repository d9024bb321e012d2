"""Who may ask: bearer keys, one per line of a mounted file that can change while the server runs."""

import hmac
from collections.abc import Callable
from pathlib import Path

from fastapi import Request

from inference_server.errors import Unauthorized

WRONG = "send the header Authorization: Bearer KEY with one of this server's keys"


def known(authorization: str, *, path: Path) -> bool:
    """Whether a header ``Authorization`` has one of the file's keys. Without a readable file it has none."""
    scheme, _, key = authorization.partition(" ")
    keys = path.read_bytes().split() if path.is_file() else []
    # Every key is compared, and in constant time, so that the time taken tells nothing about them.
    right = [hmac.compare_digest(key.strip().encode("latin-1", "replace"), each) for each in keys]
    return scheme.lower() == "bearer" and any(right)


def guard(path: Path) -> Callable[[Request], None]:
    """A dependency of routes that lets only bearers of a key pass."""

    def check(request: Request) -> None:
        if not known(request.headers.get("authorization", ""), path=path):
            raise Unauthorized(WRONG)

    return check
