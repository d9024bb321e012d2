"""Log lines for machines (JSON, one object a line) or for people (text); set up once, at the edge."""

import json
import logging
import sys
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """ts, level, logger, msg, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **({"error": self.formatException(record.exc_info)} if record.exc_info else {}),
        }
        return json.dumps(line)


def set_up(*, form: str, level: str) -> None:
    """Everything to standard error. Libraries that log each request with its headers are kept to warnings."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(
        JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [lines]
    root.setLevel(level)
    for chatty in ("azure", "kubernetes", "aiohttp.access", "asyncio", "kopf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
