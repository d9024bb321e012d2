"""``kaito local`` where there is no cluster: one line, the right exit code, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest


def kaito(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``kaito …`` with a state home of the test's own."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "XDG_STATE_HOME": str(home), "COLUMNS": "120"}
    command = [sys.executable, "-m", "kaito_cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.badinput
@pytest.mark.parametrize("arguments", [("status",), ("run", "--", "true"), ("expose", "web")])
def test_what_needs_a_running_cluster_says_how_to_start_one(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = kaito(tmp_path, "local", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "cluster local is not running: kaito local up --name local\n"


@pytest.mark.badinput
@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, command: str) -> None:
    done = kaito(tmp_path, "local", command, "--name", "Not/a name")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "use at most 30 of a-z" in done.stderr


def test_stopping_what_does_not_run_is_fine_and_leaves_nothing(tmp_path: Path) -> None:
    done = kaito(tmp_path, "local", "down")
    assert (done.returncode, done.stdout) == (0, "cluster local is not there; nothing to do\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.badinput
@pytest.mark.parametrize("arguments", [("local", "fly"), ("local", "run"), ("local", "expose", "web", "99999")])
def test_a_command_line_that_makes_no_sense_exits_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = kaito(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_names_every_command(tmp_path: Path) -> None:
    done = kaito(tmp_path, "local", "--help")
    assert done.returncode == 0
    assert all(f" {command} " in done.stdout for command in ("up", "down", "status", "run", "expose"))


def test_asking_for_help_imports_nothing_big() -> None:
    big = "{'aiohttp', 'kubernetes', 'grpc', 'pyroute2', 'torch', 'kopf', 'pydantic', 'asyncio'}"
    program = (
        f"import sys; from kaito_cli.__main__ import application; application('local'); print({big} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
