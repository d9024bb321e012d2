"""Logs of JSON lines that another process is writing."""

import json
from pathlib import Path
from typing import Any


def json_lines(log: Path) -> list[dict[str, Any]]:
    """What the lines say that are whole by now; what else is written there, as Python's own words, is left out."""
    whole, _, _ = log.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
