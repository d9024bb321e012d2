"""Who may ask: bearer keys, one per line of a mounted file that can change while the server runs."""

import hmac
from collections.abc import Callable
from pathlib import Path

from fastapi import Request

from inference_server.errors import Unauthorized

WRONG = "send the header Authorization: Bearer KEY with one of this server's keys"


def guard(path: Path) -> Callable[[Request], None]:
    """A dependency of routes that lets only bearers of a key pass. Without a readable file nobody passes."""

    def check(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        known = path.read_bytes().split() if path.is_file() else []
        # Every key is compared, and in constant time, so that the time taken tells nothing about them.
        right = [hmac.compare_digest(key.strip().encode("latin-1", "replace"), each) for each in known]
        if scheme.lower() != "bearer" or not any(right):
            raise Unauthorized(WRONG)

    return check
