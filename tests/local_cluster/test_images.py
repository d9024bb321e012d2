"""The table of images."""

import sys
from pathlib import Path

import pytest

from local_cluster.images import OPERATOR, SHELL, Image, Images, image_id, local_images

PRESET = "local/kaito-smollm2-135m-instruct:0.1.0"
RUNTIME = "local/kaito-runtime:0.1.0"


def test_the_operators_image_holds_what_its_dockerfile_copies() -> None:
    image = local_images("0.1.0", None)[OPERATOR]
    assert (image.entrypoint, image.cmd) == (("python", "-m", "kaito_operator"), ("workspace",))
    assert (image.user, image.working_dir) == (65532, "/app")
    assert {place for place in image.binds if place.startswith("/app")} == {"/app/kaito_operator", "/app/presets"}
    assert image.binds["/venv"] == Path(sys.prefix)


def test_everything_an_image_binds_exists(tmp_path: Path) -> None:
    images = local_images("0.1.0", tmp_path)
    sources = {source for name in images.names for source in images[name].binds.values()}
    assert {source for source in sources if not source.exists()} == set()


def test_the_preset_is_there_only_with_its_model(tmp_path: Path) -> None:
    assert local_images("0.1.0", None).names == (OPERATOR, RUNTIME, SHELL)
    images = local_images("0.1.0", tmp_path)
    assert images.names == (OPERATOR, RUNTIME, PRESET, SHELL)
    assert images[PRESET].binds["/workspace/weights"] == tmp_path


def test_the_interpreter_that_the_virtual_environment_links_to_is_there_too() -> None:
    binds = local_images("0.1.0", None)[OPERATOR].binds
    interpreter = Path(sys.executable).resolve()
    assert interpreter.is_relative_to("/usr") or any(interpreter.is_relative_to(place) for place in binds)


@pytest.mark.parametrize("reference", ["a:1", image_id("a:1")])
def test_an_image_is_found_by_name_and_by_id(reference: str) -> None:
    assert Images({"a:1": Image(), "b:1": Image()}).name_of(reference) == "a:1"


@pytest.mark.parametrize("reference", ["a", "a:2", "", "sha256:0", image_id("a:2")])
def test_another_reference_is_no_image(reference: str) -> None:
    assert Images({"a:1": Image()}).name_of(reference) is None
