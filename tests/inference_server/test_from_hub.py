"""From the Hub to an answer, as the pod of a Workspace does it: fetch into a directory, then serve what is there."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.faulty_http import Site, serve
from tests.support.hub import of_directory
from tests.support.serving import ROOT, serving

pytestmark = pytest.mark.server


def test_a_model_that_the_hub_serves_answers(tiny_model: Path, tmp_path: Path) -> None:
    fetched = tmp_path / "model"
    with serve(Site()) as site:
        of_directory("org/tiny", tiny_model).put_on(site)
        environment = {**os.environ, "HF_ENDPOINT": site.url, "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "presets.hub.download", "--id=org/tiny", f"--to={fetched}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    with serving(fetched, "--served_model_name=org/tiny", log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        assert httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"] == "org/tiny"
        body = {"prompt": "w1 w2", "return_full_text": False, "generate_kwargs": {"max_new_tokens": 3}}
        answer = httpx.post(f"{server.url}/chat", json=body, timeout=60)
        assert (answer.status_code, bool(answer.json()["Result"].strip())) == (200, True)


def test_a_model_in_an_image_that_is_mounted_for_its_files_answers(tiny_model: Path, tmp_path: Path) -> None:
    place = tmp_path / "image/workspace/tfs"
    place.mkdir(parents=True)
    (place / "weights").symlink_to(tiny_model)
    with serving(tmp_path / "image", log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        body = {"prompt": "w1", "generate_kwargs": {"max_new_tokens": 1}}
        assert httpx.post(f"{server.url}/chat", json=body, timeout=60).status_code == 200
