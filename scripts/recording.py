"""docs/images/terminal.svg: what a terminal shows from ``kaito deploy`` to the answer, run for the picture, not drawn.

``python -m scripts.recording`` starts a local cluster of its own, runs the commands, and stops it.
"""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent.parent / "docs/images/terminal.svg"
CLUSTER = "recording"
WIDTH = 110
KAITO = Path(sys.executable).parent / "kaito"
COMMANDS = (
    ("deploy", "chat", "--preset", "smollm2-135m-instruct", "--instance-type", "Standard_D2s_v5"),
    ("status", "chat", "--watch"),
    ("chat", "chat", "What is the capital of France?"),
    ("status", "chat"),
)
UNSEEN = ("status", "chat", "--watch")
"""Waited for; its last frame is what ``kaito status`` shows after it."""


def shown(command: tuple[str, ...], output: str) -> Text:
    """A prompt with the command, and below it what it printed."""
    line = " ".join(f'"{word}"' if " " in word else word for word in ("kaito", *command))
    return Text.assemble(("$ ", "green"), (line, "bold"), "\n", Text.from_ansi(output.rstrip("\n")), "\n")


def picture(parts: list[Text]) -> str:
    """The SVG, which asks no other server for a font."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for part in parts:
        console.print(part)
    svg = console.export_svg(title="kaito", unique_id="kaito")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")


def _run(*arguments: str) -> str:
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    done = subprocess.run([str(KAITO), *arguments], env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def main() -> None:
    """Runs the commands in the cluster's network and writes the picture."""
    try:
        _run("local", "up", "--name", CLUSTER)
        inside = ("local", "run", "--name", CLUSTER, "--", str(KAITO))
        outputs = [(command, _run(*inside, *command)) for command in COMMANDS]
    finally:
        _run("local", "down", "--name", CLUSTER)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture([shown(command, output) for command, output in outputs if command != UNSEEN]))


if __name__ == "__main__":
    main()
