"""Training the embedded model on a CPU: ours against trl's trainer with KAITO's settings, turn by turn in one run."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, measure

KINDS = ("plain", "lora", "qlora")
ROUNDS = 2


def trained(kind: str, directory: Path) -> dict[str, Any]:
    """Seconds, tokens and peak bytes of one training, start and saving aside."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.one_training", kind, str(directory)],
        env={**os.environ, "TERMINATION_LOG": str(directory / "words")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{kind} ended with {done.returncode}: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@measure("tuning.")
def tuning() -> Iterator[Figure]:
    """Real tokens a second; processor time, which other load disturbs less; and memory."""
    with tempfile.TemporaryDirectory() as directory:
        rounds = [{kind: trained(kind, Path(directory)) for kind in KINDS} for _ in range(ROUNDS)]
    speed = {kind: median(each[kind]["tokens"] / each[kind]["seconds"] for each in rounds) for kind in KINDS}
    cpu = {kind: median(1000 * each[kind]["cpu"] / each[kind]["tokens"] for each in rounds) for kind in KINDS}
    peak = {kind: max(each[kind]["peak"] for each in rounds) / 1e9 for kind in KINDS}
    yield Figure("tuning.lora.tokens_per_second", speed["lora"], "tok/s", speed["plain"])
    yield Figure("tuning.qlora.tokens_per_second", speed["qlora"], "tok/s", speed["lora"])
    yield Figure("tuning.lora.cpu_seconds_per_1000_tokens", cpu["lora"], "s", cpu["plain"])
    yield Figure("tuning.qlora.cpu_seconds_per_1000_tokens", cpu["qlora"], "s", cpu["lora"])
    yield Figure("tuning.lora.peak_rss_gb", peak["lora"], "GB", peak["plain"])
    yield Figure("tuning.qlora.peak_rss_gb", peak["qlora"], "GB", peak["plain"])
