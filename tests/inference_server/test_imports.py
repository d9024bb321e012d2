"""What the native engine must not import: each costs more time than reading and packing a small model."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.server

SLOW = ("transformers", "peft", "torch._dynamo", "torch._inductor", "sympy", "pandas", "sklearn", "scipy")
PROGRAM = f"""
import sys
import inference_server.__main__, inference_server.engines.native.served, inference_server.engines.native_engine
print(*(name for name in {SLOW} if name in sys.modules))
"""


def test_the_native_engine_starts_without_what_takes_seconds_to_import() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
