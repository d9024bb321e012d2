"""Writes the pages that are made from the code: rooms, API, settings, metrics, command line, charts.

``python -m scripts.reference``; a test compares, so that a page never lags.
"""

import ast
import subprocess
from pathlib import Path

from kaito_operator import settings
from scripts import api_pages, catalogue_pages, charts, cli_reference, metrics_page

ROOT = Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs/architecture.md"
SETTINGS = ROOT / "docs/reference/settings.md"
HEADING = "## The rooms, one sentence each\n"
PACKAGES = {
    "kaito_operator": "two controllers, one skeleton",
    "presets": "what can run, and where it fits",
    "inference_server": "`/chat` over an engine",
    "tuning_runner": "LoRA and QLoRA training",
    "kaito_cli": "`kaito`",
    "local_cluster": "a real Kubernetes and a stand-in for Azure, for laptops and tests",
}
GENERATED = "local_cluster/cri/"


def rooms(package: str) -> list[str]:
    """The modules of a package that git knows or would know, the outer ones first."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"{package}/*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name for name in listed.stdout.splitlines() if (ROOT / name).exists() and not name.startswith(GENERATED)}
    return sorted((f for f in found if not f.endswith("__init__.py")), key=lambda f: (f.count("/"), f))


def sentence(room: str) -> str:
    """The first paragraph of the module's docstring."""
    docstring = ast.get_docstring(ast.parse((ROOT / room).read_text())) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def architecture() -> str:
    """The page: what people wrote above the heading, the list below it made from the docstrings."""
    written, _, _ = ARCHITECTURE.read_text().partition(HEADING)
    parts = [written + HEADING + "\nMade from the modules' docstrings by `make reference`."]
    for package, what in PACKAGES.items():
        if listed := rooms(package):
            parts.append(f"\n### {package}: {what}\n")
            parts += [f"* `{room}`: {sentence(room)}" for room in listed]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Writes the pages."""
    ARCHITECTURE.write_text(architecture())
    SETTINGS.parent.mkdir(parents=True, exist_ok=True)
    SETTINGS.write_text(settings.as_markdown())
    api_pages.PAGE.write_text(api_pages.page())
    metrics_page.PAGE.write_text(metrics_page.page())
    cli_reference.PAGE.write_text(cli_reference.page())
    charts.write()
    catalogue_pages.main()


if __name__ == "__main__":
    main()
