"""A hook of mkdocs: sections of the navigation that name a directory have all of its pages, so none is forgotten."""

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def on_config(config: Any) -> Any:
    """Called by mkdocs once its configuration is read."""
    config.nav = [_whole(entry) for entry in config.nav]
    return config


def _whole(entry: dict[str, Any]) -> dict[str, Any]:
    ((title, target),) = entry.items()
    if isinstance(target, str) and (DOCS / target).is_dir():
        return {title: [str(page.relative_to(DOCS)) for page in sorted((DOCS / target).glob("*.md"))]}
    return entry
