"""A small HTTP server for the data of the examples, so that their URLs lead somewhere without the Internet."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

PORT = 8090
EXAMPLES = Path(__file__).parent.parent / "examples"


def app(examples: Path = EXAMPLES) -> "web.Application":
    """``/NAME/data/FILE`` is ``examples/NAME/data/FILE``; read only, with ranges, without listings."""
    from aiohttp import web  # slow to import, and most commands need the port alone

    served = web.Application()
    for data in sorted(examples.glob("*/data")):
        served.router.add_static(f"/{data.parent.name}/data", data, follow_symlinks=False)
    return served
