"""The command line starts with nothing big behind it: a command imports what it needs once it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from kaito_cli.__main__ import COMMANDS

BIG = {"torch", "transformers", "kopf", "kubernetes", "aiohttp", "grpc", "pyroute2", "numpy", "azure", "tokenizers"}
PROGRAM = """
import sys
from kaito_cli.__main__ import application
application(sys.argv[1])
print(*(name for name in sys.modules if "." not in name))
"""
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_no_command_brings_anything_big_along(command: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, command], capture_output=True, text=True, check=True)
    assert BIG & set(done.stdout.split()) == set()


@pytest.mark.parametrize(("program", "called"), [("kaito", "kaito"), ("kubectl-kaito", "kubectl kaito")])
def test_it_is_a_program_and_a_plugin_of_kubectl(program: str, called: str) -> None:
    done = subprocess.run([str(BIN / program), "deploy", "--help"], capture_output=True, text=True, check=True)
    assert f"Usage: {called} deploy [OPTIONS] [name]" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    ask = {"_KAITO_COMPLETE": f"source_{shell}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([str(BIN / "kaito")], env=ask, capture_output=True, text=True, check=False)
    assert "_KAITO_COMPLETE" in done.stdout
    assert done.stderr == ""


def test_the_commands_are_offered_when_completing() -> None:
    ask = {"_KAITO_COMPLETE": "complete_bash", "COMP_WORDS": "kaito do", "COMP_CWORD": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([str(BIN / "kaito")], env=ask, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["doctor"]
