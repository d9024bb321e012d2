"""``python -m bench [--only PREFIX]``: prints a table and writes bench/out/latest.json."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from bench import cluster as cluster
from bench import gpu as gpu
from bench import operator as operator
from bench import provisioner as provisioner
from bench import serving as serving
from bench import serving_soak as serving_soak
from bench import soak as soak
from bench import tuning as tuning
from bench.figures import MEASURES, ONLY_WHEN_NAMED, Figure

OUT = Path(__file__).parent / "out" / "latest.json"


def main() -> None:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", metavar="PREFIX", help="only figures whose names begin so")
    only: str = parser.parse_args().only
    figures: list[Figure] = []
    for prefix, measured in MEASURES.items():
        if _is_wanted(prefix, only=only):
            for figure in measured():
                if figure.name.startswith(only):
                    figures.append(figure)
                    print(_row(figure), flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([{**asdict(f), "ratio": f.ratio} for f in figures], indent=2) + "\n")


def _is_wanted(prefix: str, *, only: str) -> bool:
    """Whether ``only`` names these figures, or begins all their names and they do not want to be named whole."""
    named = only.startswith(prefix) or f"{only}." == prefix
    return named or (prefix.startswith(only) and prefix not in ONLY_WHEN_NAMED)


def _row(figure: Figure) -> str:
    compared = "" if figure.ratio is None else f"   {figure.ratio:8.2f} × {figure.baseline:.2f} {figure.unit}"
    return f"{figure.name:<44} {figure.value:10.2f} {figure.unit:<10}{compared}"


if __name__ == "__main__":
    main()
