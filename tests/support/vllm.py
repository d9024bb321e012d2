"""Real vLLM, in a virtual environment of its own: it pins another torch and transformers than ours."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

ENGINE = "vllm"
VLLM = pytest.param(ENGINE, marks=pytest.mark.vllm)
"""Among the engines of a parametrised test."""
ENVIRONMENT: Mapping[str, str] = {"VLLM_CPU_KVCACHE_SPACE": "1"}
"""GiB; vLLM would take half of the machine's memory."""
FLAGS = ("--engine=vllm", "--vllm_option=enforce_eager=true")
"""torch's compiler takes a minute for each model."""
WIDTH = 128
"""Of the tiny model: vLLM's attention for processors wants heads of 32 numbers at least."""


def python() -> Path:
    """The interpreter that has vLLM. Skips the test where there is none."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = home.absolute() / "kaito" / "vllm" / "bin" / "python"
    if not found.exists():
        pytest.skip(f"vLLM is not installed in {found.parents[1]}: make vllm puts it there")
    return found
