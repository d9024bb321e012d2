"""What the guides tell people to type and to apply: the commands exist, their values too, and the YAML is taken."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kaito_operator.api.validation import problems
from kaito_operator.api.workspace import parse_workspace
from local_cluster import binaries
from presets.catalog import load_catalog
from scripts import cli_reference

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "docs/index.md", *(ROOT / "docs/guide").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {"kubectl", "az", "docker", "kind", "sudo", "export", "git"}
"""Programs that are not ours: only their being called is looked at."""
OURS = {"kaito", "make", "helm"}
SHELL = {"", "sh"}


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(language, text) for language, text in FENCE.findall(page.read_text())]


def commands(page: Path) -> list[list[str]]:
    """Every line that is typed, continued ones joined, without output, comments and substitutions."""
    return [words for language, text in blocks(page) if language in SHELL for words in _typed(text)]


def _typed(text: str) -> Iterator[list[str]]:
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        plain = re.sub(r"\$\([^)]*\)", "SUBSTITUTED", line).removeprefix("$ ")
        known = plain.split(" ", 1)[0] in OURS | ELSEWHERE
        if known and (not text.startswith("$ ") or line.startswith("$ ")):
            yield list(shlex.split(plain, comments=True))


TYPED = [words for page in PAGES for words in commands(page)]
MANIFESTS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(blocks(page))
    if language == "yaml"
]


def starting(*first: str) -> pytest.MarkDecorator:
    """Parametrizes by all commands that begin so, each once."""
    chosen = {" ".join(words): words for words in TYPED if tuple(words[: len(first)]) == first}
    return pytest.mark.parametrize("words", chosen.values(), ids=[line[:70] for line in chosen])


def test_there_is_something_to_look_at_and_nothing_unknown_is_typed() -> None:
    assert {words[0] for words in TYPED} >= OURS
    unknown = {
        line.split(" ", 1)[0]
        for page in PAGES
        for language, text in blocks(page)
        if language == "sh"
        for line in re.sub(r"\\\n\s*", "", text).splitlines()
        if line and not line.startswith("#")
    } - (OURS | ELSEWHERE)
    assert unknown == set()


@starting("kaito")
def test_a_kaito_command_exists_with_its_options(words: list[str]) -> None:
    known = cli_reference.commands()
    command = next((name for n in (3, 2) if (name := " ".join(words[:n])) in known), "")
    assert command, f"{' '.join(words)}: no such command"
    given = words[: words.index("--")] if "--" in words else words
    options = {word.partition("=")[0] for word in given if re.match(r"--?[a-z]", word)}
    assert options <= cli_reference.options(command), " ".join(words)


@starting("kaito", "deploy")
def test_a_deployment_of_the_guides_is_taken(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kaito_cli", *words[1:], "--dry-run", "-o", "yaml"],
        capture_output=True, text=True, timeout=180, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@starting("make")
def test_a_make_target_exists(words: list[str]) -> None:
    targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[1] in targets


@starting("helm")
def test_an_installation_renders(words: list[str]) -> None:
    assert words[1] in {"install", "upgrade", "uninstall"}
    if words[1] == "uninstall":
        return
    plain = [word for word in words[2:] if word not in {"--install", "--create-namespace", "--take-ownership"}]
    command = [str(binaries.find("helm")["helm"]), "template", *plain]
    version = ["--kube-version", binaries.pinned("k8s.io/kubernetes")]
    done = subprocess.run([*command, *version], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_files_that_are_named_exist() -> None:
    named = [word for words in TYPED for word in words if re.match(r"(examples|charts|docs)/|Dockerfile", word)]
    assert named
    assert [word for word in named if not (ROOT / word).exists()] == []


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_manifest_is_taken_by_the_operator(text: str) -> None:
    for manifest in yaml.safe_load_all(text):
        assert manifest["kind"] == "Workspace"
        assert problems(parse_workspace(manifest), catalog=load_catalog()) == ()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*/workspace.yaml")), ids=lambda path: path.parent.name
)
def test_an_example_is_taken_by_the_operator(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        if manifest["kind"] == "Workspace":
            assert problems(parse_workspace(manifest), catalog=load_catalog()) == ()


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--quiet", "--site-dir"]
    quiet = {"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for page in (ROOT / "docs").glob("**/*.md"):
        made = page.relative_to(ROOT / "docs").with_suffix("")
        assert (tmp_path / (made.parent if made.name == "index" else made) / "index.html").exists(), page
    home = (tmp_path / "index.html").read_text()
    assert "decisions/0001-kopf-is-the-doorbell/" in home
