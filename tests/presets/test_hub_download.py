"""A model of the Hub in a directory: what is fetched and what is not, what is told meanwhile, and how it fails."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from presets.hub.download import NoRoom, Words, download, told_at, wanted
from presets.hub.reader import Broken, Gated, Missing, Unsupported
from presets.model_directory import PLACES, model_directory
from presets.tuning_steps import ExitCode
from tests.support.faulty_http import Fault, Site, serve
from tests.support.hub import COMMIT, Repository, header, refused

ROOT = Path(__file__).parents[2]
WEIGHTS = header({"model.embed_tokens.weight": [64, 64]})[0] + bytes(64 * 64 * 2)
TEXTS = {"tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}", "LICENSE": b"MIT"}
REFUSED = {
    "modeling_own.py": b"import os",
    "pytorch_model.bin": b"\x80",
    "README.md": b"#",
    "original/params.json": b"",
}


def a_model(**more: bytes) -> Repository:
    texts = {**TEXTS, **REFUSED, **more}
    return Repository("org/tiny", {"model_type": "llama"}, {"model.safetensors": (WEIGHTS, len(WEIGHTS))}, texts=texts)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site()) as running:
        yield running


def names(directory: Path) -> set[str]:
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if ".cache" not in path.parts and path.is_file()
    }


@pytest.mark.security
def test_weights_and_what_is_read_with_them_are_fetched_and_no_code(site: Site, tmp_path: Path) -> None:
    a_model().put_on(site)
    said: list[str] = []
    download("org/tiny", tmp_path, endpoint=site.url, say=said.append)
    assert names(tmp_path) == {"config.json", "model.safetensors", *TEXTS}
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert said == [f"org/tiny at {COMMIT} is in {tmp_path}: 0.0 MiB"]
    assert [path for _, path, _ in site.seen if any(name in path for name in REFUSED)] == []


def test_what_broke_off_is_fetched_again_and_what_is_there_is_not(site: Site, tmp_path: Path) -> None:
    a_model().put_on(site)
    site.faults.append(Fault(path="/model.safetensors", method="GET", cut=4000))
    download("org/tiny", tmp_path, endpoint=site.url)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert len(site.asked("GET", "/model.safetensors")) == 2
    fetched = len(site.asked("GET", "/resolve/"))
    download("org/tiny", tmp_path, endpoint=site.url)
    assert len(site.asked("GET", "/resolve/")) == fetched


@pytest.mark.security
def test_the_token_goes_to_the_hub_alone_and_into_no_file(site: Site, tmp_path: Path) -> None:
    a_model().put_on(site)
    download("org/tiny", tmp_path, endpoint=site.url, token="hf_secret")
    assert {headers.get("authorization") for _, _, headers in site.seen} == {"Bearer hf_secret"}
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_model_larger_than_the_disk_is_not_begun(site: Site, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    huge = Repository("org/huge", {"model_type": "llama"}, {"model.safetensors": (WEIGHTS, 2 * free)})
    huge.put_on(site)
    with pytest.raises(NoRoom, match=r"org/huge takes .* GiB more, and .* has .* GiB free"):
        download("org/huge", tmp_path, endpoint=site.url)
    assert site.asked("GET", "/resolve/") == []


def test_of_two_forms_of_the_weights_the_one_that_is_loaded_is_fetched() -> None:
    files = {"config.json": 1, "model.safetensors": 9, "consolidated.safetensors": 9, "tokenizer.model": 1}
    assert list(wanted("org/two", files)) == ["config.json", "tokenizer.model", "model.safetensors"]


@pytest.mark.badinput
def test_what_cannot_be_loaded_is_not_fetched() -> None:
    with pytest.raises(Unsupported, match="only safetensors are loaded"):
        wanted("org/pickled", {"config.json": 1, "pytorch_model.bin": 9})
    with pytest.raises(Broken, match=r"has no config\.json"):
        wanted("org/bare", {"model.safetensors": 9})


def run(site: Site, to: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The step as the init container has it."""
    environment = {**os.environ, "HF_ENDPOINT": site.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret"}
    command = [sys.executable, "-m", "presets.hub.download", "--id=org/tiny", f"--to={to}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


ENDS: dict[str, tuple[Fault, ExitCode, str]] = {
    "gated": (
        refused(403, "GatedRepo"),
        ExitCode.HUB_GATED,
        "HubGated: org/tiny is gated: agree to its terms on the Hub and give a token of yours in HF_TOKEN",
    ),
    "gated weights": (
        refused(403, "GatedRepo", path="/model.safetensors"),
        ExitCode.HUB_GATED,
        "HubGated: org/tiny is gated: agree to its terms on the Hub and give a token of yours in HF_TOKEN",
    ),
    "missing": (
        refused(404, "RepoNotFound"),
        ExitCode.HUB_MODEL_MISSING,
        "HubModelMissing: the Hub has no org/tiny, or it is private and the token in HF_TOKEN may not read it",
    ),
    "no such answer": (
        Fault(status=200, path="/api/models", body=b"{}"),
        ExitCode.HUB_MODEL_UNSUPPORTED,
        "HubModelUnsupported: the Hub's answer on org/tiny has a form that is not known (KeyError)",
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", ENDS)
def test_the_step_ends_with_the_code_and_the_words_of_what_went_wrong(case: str, site: Site, tmp_path: Path) -> None:
    fault, code, last = ENDS[case]
    a_model().put_on(site)
    site.faults.extend([fault] * 2)  # asked for by HEAD, and again by GET
    done = run(site, tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, last)
    assert "hf_secret" not in done.stderr


def test_a_hub_that_is_busy_is_asked_again(site: Site, tmp_path: Path) -> None:
    a_model().put_on(site)
    site.faults.append(refused(503))
    done = run(site, tmp_path)
    assert (done.returncode, "HTTP 503): try again in some minutes; again in 2 s" in done.stderr) == (0, True)
    assert names(tmp_path) == {"config.json", "model.safetensors", *TEXTS}


def test_whoever_asks_is_told_how_far_it_is_as_the_server_will() -> None:
    words = Words()
    with told_at(0, words) as port:
        words.say("1.0 of 3.0 GiB, 99 MB/s, about 20 s left")
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60)
    assert answer.status_code == 503
    assert answer.json() == {"status": "loading", "progress": "1.0 of 3.0 GiB, 99 MB/s, about 20 s left"}


def test_other_errors_are_typed(site: Site, tmp_path: Path) -> None:
    site.faults.append(refused(401, "GatedRepo"))
    with pytest.raises(Gated):
        download("org/tiny", tmp_path, endpoint=site.url)
    with pytest.raises(Missing):
        download("org/tiny", tmp_path, endpoint=site.url)


@pytest.mark.parametrize("place", PLACES)
def test_the_model_is_found_in_the_places_where_images_have_it(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert Path(model_directory(str(tmp_path))) == tmp_path / place


def test_an_id_of_the_hub_is_no_directory(tmp_path: Path) -> None:
    assert model_directory("org/tiny") == "org/tiny"
    assert model_directory(str(tmp_path)) == str(tmp_path)
