"""How threads wait for each other: heard by the library, and said before it is loaded."""

import os
import subprocess
import sys

import pytest

from presets import openmp


def ran(code: str) -> subprocess.CompletedProcess[str]:
    """By a process of its own, to whom nobody has said how threads wait."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    return subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=60, check=True)


def test_torch_s_library_hears_it() -> None:
    shown = "import os; os.environ['OMP_DISPLAY_ENV'] = 'VERBOSE'; from presets import openmp; {}; import torch"
    assert "GOMP_SPINCOUNT = '300000'" in ran(shown.format("openmp")).stderr
    assert "GOMP_SPINCOUNT = '1500'" in ran(shown.format("openmp.wait_briefly()")).stderr


@pytest.mark.parametrize("program", ["inference_server", "tuning_runner"])
def test_programs_say_it_first_and_load_torch_later(program: str) -> None:
    code = f"""
import os, sys
from {program} import __main__ as program
print("torch" in sys.modules)
sys.argv = ["", "--port=none"]
try:
    program.main()
except SystemExit:
    pass
print(os.environ["GOMP_SPINCOUNT"])
"""
    assert ran(code).stdout.splitlines() == ["False", "1500"]


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_whoever_starts_the_process_says_stays(said: dict[str, str]) -> None:
    environment = dict(said)
    openmp.wait_briefly(environment)
    assert environment == said
