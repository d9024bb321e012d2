"""The images, as far as that shows without building them: no image can be pulled where these tests run."""

import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from scripts import images, torch_flavour
from scripts.sbom import sbom

ROOT = Path(__file__).parent.parent
FILES = {"operator": "requirements/operator.txt", "preset": "requirements/server.txt"}


MOUNTS = re.compile(r"--mount=\S+\s+")


def instructions(image: str) -> list[tuple[str, str]]:
    """Word and rest of each instruction, continued lines joined."""
    text = (ROOT / f"Dockerfile.{image}").read_text()
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(word, rest) for line in lines if line for word, _, rest in [line.partition(" ")]]


def defaults(image: str) -> dict[str, str]:
    pairs = (rest.partition("=") for word, rest in instructions(image) if word == "ARG")
    return {name: value for name, equals, value in pairs if equals}


def admitted(path: str) -> bool:
    """Whether .dockerignore lets a path into the build context: the last line that matches decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
            verdict = line.startswith("!")
    return verdict


@pytest.mark.parametrize("image", FILES)
def test_everything_that_is_copied_is_there_and_reaches_the_build(image: str) -> None:
    copied = [rest.split()[0] for word, rest in instructions(image) if word == "COPY" and "--from" not in rest]
    for name, value in defaults(image).items():
        copied = [source.replace(f"${{{name}}}", value) for source in copied]
    assert len(copied) >= 5
    assert [source for source in copied if not (ROOT / source).exists() or not admitted(source)] == []
    assert not admitted(".git")
    assert not admitted("tests")


@pytest.mark.parametrize("image", FILES)
def test_packages_are_locked_with_hashes_and_no_shell_is_used(image: str) -> None:
    run = [json.loads(MOUNTS.sub("", rest)) for word, rest in instructions(image) if word == "RUN"]
    (installing,) = (command for command in run if "install" in command)
    assert "--require-hashes" in installing
    assert all(json.loads(rest) for word, rest in instructions(image) if word in {"ENTRYPOINT", "CMD"})
    locked = (ROOT / FILES[image]).read_text()
    assert locked.count("==") <= locked.count("--hash=sha256:")


@pytest.mark.security
@pytest.mark.parametrize("image", FILES)
def test_an_image_runs_as_the_user_that_the_charts_ask_for(image: str) -> None:
    users = [rest for word, rest in instructions(image) if word == "USER"]
    asked = yaml.safe_load((ROOT / "charts/workspace/values.yaml").read_text())["podSecurityContext"]
    assert users == [f"{asked['runAsUser']}:{asked['runAsGroup']}"]
    after = [word for word, _ in instructions(image)]
    assert "RUN" not in after[after.index("USER") :]


@pytest.mark.parametrize("image", FILES)
def test_an_image_says_what_it_is(image: str) -> None:
    (labels,) = (rest for word, rest in instructions(image) if word == "LABEL")
    for name in ("title", "description", "licenses", "version", "revision", "created", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels
    stages = [rest for word, rest in instructions(image) if word == "FROM"]
    assert all(stage.startswith(("${BASE}", "${COMPILER} AS kernels")) for stage in stages)
    assert stages[-1] == "${BASE}"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert defaults(image)["VERSION"] == version == images.VERSION


@pytest.mark.parametrize("image", FILES)
def test_only_arguments_that_the_dockerfile_has_are_given(image: str) -> None:
    assert {*images.BUILD_ARGUMENTS[image], "VERSION", "REVISION", "CREATED"} == defaults(image).keys()


def test_the_operators_image_has_no_torch_and_what_both_controllers_import() -> None:
    text = (ROOT / FILES["operator"]).read_text()
    assert not re.search(r"^(torch|transformers|numpy|nvidia-\S+)==", text, re.MULTILINE)
    copied = {rest.split()[0] for word, rest in instructions("operator") if word == "COPY"}
    assert {"kaito_operator", "presets"} <= copied  # of our own it imports nothing else: import-linter


@pytest.mark.parametrize("image", FILES)
def test_the_list_of_what_is_inside_has_every_locked_package_with_its_digests(image: str) -> None:
    text = (ROOT / FILES[image]).read_text()
    made = sbom(image, text)
    names = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", text, re.MULTILINE)
    assert [component["name"] for component in made["components"]] == [re.sub(r"[-_.]+", "-", n).lower() for n in names]
    digests = [p["value"] for c in made["components"] for p in c["properties"] if p["name"] == "kaito:sha256"]
    assert digests == re.findall(r"sha256:([0-9a-f]{64})", text)
    references = [component["bom-ref"] for component in made["components"]]
    assert len(references) == len(set(references))


def test_the_list_is_written_by_the_command_of_the_dockerfile(tmp_path: Path) -> None:
    output = tmp_path / "sbom.json"
    command = [sys.executable, "-I", "scripts/sbom.py", "kaito-operator", FILES["operator"], str(output)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert json.loads(output.read_text()) == sbom("kaito-operator", (ROOT / FILES["operator"]).read_text())


def test_docker_is_taken_where_it_works_and_buildah_where_it_does_not() -> None:
    buildah = ("buildah", "build", "--layers", "--isolation", "chroot")
    assert images.builder(lambda _: True) == ("docker", "build")
    assert images.builder(lambda check: check[0] == "buildah") == buildah
    assert images.builder(lambda _: True, asked="buildah") == buildah
    assert images.builder(lambda _: False) is None
    assert images.builder(lambda _: True, asked="kaniko") is None


def test_both_images_are_built_with_what_was_asked_for() -> None:
    asked = {
        "BASE": "registry.example/python:3.12",
        "MODEL": "phi-3-mini-4k-instruct",
        "TAG": "9",
        "PLATFORM": "linux/arm64",
    }
    operator, preset = images.commands(("docker", "build"), asked, revision="abc", created="now")
    assert operator[-5:] == ["--file", "Dockerfile.operator", "--tag", "kaito/operator:9", "."]
    assert preset[-2:] == ["kaito/kaito-phi-3-mini-4k-instruct:9", "."]
    for command in (operator, preset):
        assert command[:4] == ["docker", "build", "--platform", "linux/arm64"]
        assert {"BASE=registry.example/python:3.12", "VERSION=9", "REVISION=abc", "CREATED=now"} <= set(command)
    assert images.commands(("docker", "build"), {**asked, "ONLY": "preset"}, revision="abc", created="now") == [preset]
    assert "MODEL=phi-3-mini-4k-instruct" in preset
    assert not any(word.startswith("MODEL=") for word in operator)


def test_how_the_machine_reaches_its_index_is_a_secret_of_the_build_where_there_is_such_a_file() -> None:
    asked = {"PIP_CONFIG_FILE": "/home/me/pip.conf"}
    every = images.secrets(asked, exists=lambda _: True)
    certificates = "id=certificates,src=/etc/ssl/certs/ca-certificates.crt"
    assert every == ["--secret", "id=pip,src=/home/me/pip.conf", "--secret", certificates]
    assert images.secrets({"PIP_CERT": "/ca.pem"}, exists=lambda file: file.name == "ca.pem") == [
        "--secret", "id=certificates,src=/ca.pem",
    ]  # fmt: skip
    (operator, _) = images.commands(("docker", "build"), {}, revision="abc", created="now", given=every)
    assert operator[2:6] == every
    for image in FILES:
        (mounted,) = (rest for word, rest in instructions(image) if word == "RUN" and "--mount" in rest)
        for name, (_, default) in images.SECRETS.items():
            assert f"--mount=type=secret,id={name},target={default}" in mounted


LOCK = "\n".join(
    (
        "# comment",
        "numpy==2.0 \\",
        "    --hash=sha256:aa \\",
        "    --hash=sha256:bb",
        "nvidia-cublas==13 ; sys_platform == 'linux' \\",
        "    --hash=sha256:cc",
        "torch==2.15.0 \\",
        "    --hash=sha256:dd",
        "    # via something",
        "triton==3.9.0 ; sys_platform == 'linux' \\",
        "    --hash=sha256:ee",
        "",
    )
)
NUMPY, CUBLAS, TORCH = (
    "numpy==2.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n",
    "nvidia-cublas==13 ; sys_platform == 'linux' \\\n    --hash=sha256:cc\n",
    "torch==2.15.0 \\\n    --hash=sha256:dd\n    # via something\n",
)


def test_torch_for_processors_is_the_wheel_that_is_given_or_the_index_s_without_triton(tmp_path: Path) -> None:
    assert torch_flavour.choose("cuda", LOCK, wheels=tmp_path) == LOCK
    assert torch_flavour.choose("cpu", LOCK, wheels=tmp_path) == NUMPY + CUBLAS + TORCH
    (tmp_path / "torch-2.15.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"a wheel")
    digest = sha256(b"a wheel").hexdigest()
    chosen = torch_flavour.choose("cpu", LOCK, wheels=tmp_path)
    assert chosen == NUMPY + f"torch==2.15.0+cpu \\\n    --hash=sha256:{digest}\n"


def test_what_is_for_gpus_alone_is_known_by_its_name() -> None:
    lock = (ROOT / FILES["preset"]).read_text()
    names = {entry.partition("==")[0] for entry in torch_flavour.entries(lock)}
    left_out = {name for name in names if torch_flavour.FOR_GPUS.match(name)}
    assert {"triton", "cuda-toolkit", "nvidia-cublas"} < left_out
    assert {"torch", "transformers", "bitsandbytes"} <= names - left_out
    assert "".join(torch_flavour.entries(lock)).count("--hash=") == lock.count("--hash=")


@pytest.mark.badinput
def test_an_unknown_flavour_is_told_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text(LOCK)
    done = subprocess.run(
        [sys.executable, "scripts/torch_flavour.py", "choose", str(tmp_path / "lock.txt"), str(tmp_path), "out.txt"],
        cwd=ROOT, env={**os.environ, "TORCH": "rocm"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "TORCH=rocm: use cpu or cuda\n")


@pytest.mark.badinput
def test_where_nothing_can_build_it_is_said_in_one_line_what_to_install(tmp_path: Path) -> None:
    git = tmp_path / "git"
    git.symlink_to("/usr/bin/git")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.images"],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, "", images.NOBODY)


@pytest.mark.parametrize(
    ("asked", "name", "gcc"),
    [([], "kaito-base-debian12-python3", False), (["compiler"], "kaito-compiler-debian12-python3", True)],
    ids=["base", "compiler"],
)
def test_where_no_image_can_be_pulled_one_is_made_and_only_its_name_is_printed(
    tmp_path: Path, asked: list[str], name: str, gcc: bool
) -> None:
    """What is printed becomes a build argument, and `buildah build --quiet` prints the identity of what it made."""
    asked_of = tmp_path / "asked"
    programs = {
        "debootstrap": f'echo "$2" > {asked_of}; mkdir -p $4/usr/share $4/var/lib/apt',
        "buildah": '[ "$1" = build ] && echo 3845c1acfc7b',
    }
    for program, does in programs.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    command = [sys.executable, "-m", "scripts.base_image", *asked]
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    made = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=True)
    assert made.stdout == f"localhost/{name}\n"
    assert ("gcc" in re.split("[=,\n]", asked_of.read_text())) == gcc
