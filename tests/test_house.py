"""The house rules that a machine can check: the map is true, rooms are small, nothing forbidden comes in."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from kaito_operator import settings
from scripts import api_pages, metrics_page, reference

ROOT = Path(__file__).parent.parent
PACKAGES = ("kaito_operator", "presets", "inference_server", "tuning_runner", "kaito_cli", "local_cluster")
GENERATED = "local_cluster/cri/"


def tracked(*patterns: str) -> list[str]:
    """Files that git knows or would know, so that caches and environments do not count."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


PRODUCT = [f for f in tracked("*.py") if f.startswith(PACKAGES) and not f.startswith(GENERATED)]
ALL_PYTHON = [f for f in tracked("*.py") if not f.startswith(GENERATED)]


def test_the_pages_made_from_the_code_are_up_to_date() -> None:
    assert reference.ARCHITECTURE.read_text() == reference.architecture(), "make reference"
    assert reference.SETTINGS.read_text() == settings.as_markdown(), "make reference"
    assert api_pages.PAGE.read_text() == api_pages.page(), "make reference"
    assert metrics_page.PAGE.read_text() == metrics_page.page(), "make reference"


def test_every_module_says_in_one_sentence_what_it_is() -> None:
    silent = [f for f in PRODUCT if not f.endswith("__init__.py") and not reference.sentence(f)]
    assert silent == []


def test_every_decision_has_context_decision_and_consequences() -> None:
    for record in sorted((ROOT / "docs/decisions").glob("*.md")):
        text = record.read_text()
        assert re.match(r"# \d{4} \S", text), record.name
        assert all(part in text for part in ("**Context.**", "**Decision.**", "**Consequences.**")), record.name


def test_no_room_is_longer_than_300_lines() -> None:
    assert {f: n for f in PRODUCT if (n := (ROOT / f).read_text().count("\n")) > 300} == {}


def test_the_native_engine_stays_readable_at_one_sitting() -> None:
    rooms = (ROOT / "inference_server/engines/native").glob("*.py")
    assert sum(room.read_text().count("\n") for room in rooms) <= 1500


def test_no_function_is_longer_than_50_lines() -> None:
    long = {
        f"{f}:{node.name}": node.end_lineno - node.lineno + 1
        for f in PRODUCT
        for node in ast.walk(ast.parse((ROOT / f).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 50
    }
    assert long == {}


FORBIDDEN = {
    r"kopf\.on\.(create|update|delete|resume|field|timer|daemon)": "kopf is only the doorbell",
    r"kopf\.zalando\.org": "kopf's annotations are nobody's truth",
    r"\btime\.sleep\(": "nothing sleeps for luck",
    r"\b(TODO|FIXME|XXX)\b": "no to-do on main",
    r"\bif .*\b(TESTING|IS_TEST)\b": "no test switch in the product",
    r"trust_remote_code=True": "no remote code",
    r"yaml\.safe_load\(f[\"']": "no YAML in f-strings",
    r"generateName": "names are functions of identity",
}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_nothing_forbidden_is_in_the_product(pattern: str) -> None:
    found = [f for f in PRODUCT if re.search(pattern, (ROOT / f).read_text())]
    assert found == [], FORBIDDEN[pattern]


def test_the_product_has_no_assert_statements() -> None:
    with_assert = [
        f"{f}:{node.lineno}"
        for f in PRODUCT
        for node in ast.walk(ast.parse((ROOT / f).read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert with_assert == []


def test_only_handlers_imports_kopf() -> None:
    importers = [f for f in PRODUCT if re.search(r"^\s*(import|from) kopf\b", (ROOT / f).read_text(), re.MULTILINE)]
    assert importers == ["kaito_operator/handlers.py"]


def test_no_skip_is_without_a_reason() -> None:
    bare = r"pytest\.(skip\(\s*\)|mark\.skip\b(?!\())"
    assert [f for f in ALL_PYTHON if re.search(bare, (ROOT / f).read_text()) and f != "tests/test_house.py"] == []


def test_the_readme_shows_the_two_commands_and_ci_calls_the_second() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
            if not target.startswith(("http:", "https:")) and not (ROOT / page).parent.joinpath(target).exists():
                broken.append(f"{page} → {target}")
    assert broken == []


def test_every_make_target_of_the_help_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"`make ([a-z]+)`", (ROOT / "README.md").read_text())) <= set(
        re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    )
