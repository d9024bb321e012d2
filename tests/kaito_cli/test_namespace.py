"""Which namespace is meant: that of -n, else that of the context, as with kubectl."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kaito_cli.connection import meant


def kubeconfig(path: Path, *, current: str = "", **contexts: str) -> str:
    """A file with contexts and their namespaces; "" for one without."""
    listed = [
        {"name": name, "context": {"cluster": "c", **({"namespace": namespace} if namespace else {})}}
        for name, namespace in contexts.items()
    ]
    path.write_text(yaml.safe_dump({"contexts": listed, **({"current-context": current} if current else {})}))
    return str(path)


def test_what_is_asked_for_wins_then_the_context_then_default(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "a", current="work", work="team", home="")
    assert meant("mine", kubeconfig=file, context=None) == "mine"
    assert meant("", kubeconfig=file, context=None) == "team"
    assert meant("", kubeconfig=file, context="work") == "team"
    assert meant("", kubeconfig=file, context="home") == "default"
    assert meant("", kubeconfig=file, context="unheard-of") == "default"


def test_of_several_files_the_first_that_says_so_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (kubeconfig(tmp_path / "a", work="team"), kubeconfig(tmp_path / "b", current="work", work="other"))
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(files))
    assert meant("", kubeconfig=None, context=None) == "team"


@pytest.mark.badinput
@pytest.mark.parametrize("content", ["", "[1, 2", "- a", "contexts:\n", "\x00"])
def test_a_file_that_says_nothing_leaves_default(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").write_text(content)
    assert meant("", kubeconfig=str(tmp_path / "a"), context=None) == "default"


@pytest.mark.badinput
def test_without_any_cluster_it_is_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert meant("", kubeconfig=None, context=None) == "default"
    assert meant("", kubeconfig=str(tmp_path / "none"), context=None) == "default"


def test_a_workspace_goes_where_the_context_points(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "a", current="work", work="team")
    wanted = ("deploy", "chat", "--preset", "smollm2-135m-instruct", "--instance-type", "Standard_D2s_v5")
    done = subprocess.run(
        [sys.executable, "-m", "kaito_cli", *wanted, "--kubeconfig", file, "--dry-run", "-o", "yaml"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert yaml.safe_load(done.stdout)["metadata"] == {"name": "chat", "namespace": "team"}
