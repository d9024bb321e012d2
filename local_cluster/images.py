"""The images of the local cluster: a table, for a container here is a process among directories that exist already."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent.parent
"""Where the packages lie side by side: the checkout, or site-packages."""
NON_ROOT = 65532
"""The user of images that must not run as root; distroless calls it nonroot, and so do our Dockerfiles."""
SHELL = "local/shell:dev"
OPERATOR = "local/kaito-operator:dev"
RUNTIME = ("inference_server", "presets", "tuning_runner")
"""The packages of the image that serves and tunes."""
PYTHON_ENVIRONMENT = {
    "PATH": "/venv/bin:/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": "/app",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says about its containers. ``binds``: path in the container → directory, read-only there."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    binds: Mapping[str, Path] = field(default_factory=dict)
    user: int = NON_ROOT


class Images:
    """A frozen table of images, by name and by id."""

    def __init__(self, table: Mapping[str, Image]) -> None:
        self._by_name = MappingProxyType(dict(table))
        self._names = MappingProxyType({image_id(name): name for name in table})

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted(self._by_name))

    def name_of(self, reference: str) -> str | None:
        """The name of the image that a name or an id refers to; the kubelet uses both."""
        name = self._names.get(reference, reference)
        return name if name in self._by_name else None

    def __getitem__(self, name: str) -> Image:
        return self._by_name[name]


def image_id(name: str) -> str:
    """An id that looks as ids of images do."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def local_images(version: str, model_dir: Path | None) -> Images:
    """The images of the local cluster: what the Dockerfiles would build from this checkout.

    ``model_dir`` holds the converted embedded model; without it there is no image that serves it.
    """
    table = {
        SHELL: Image(entrypoint=("/bin/sh",), env={"PATH": "/usr/local/bin:/usr/bin:/bin"}),
        OPERATOR: Image(
            entrypoint=("python", "-m", "kaito_operator"),
            cmd=("workspace",),
            env=PYTHON_ENVIRONMENT,
            working_dir="/app",
            binds={**python(), **packages("kaito_operator", "presets")},
        ),
    }
    table[f"local/kaito-runtime:{version}"] = Image(
        entrypoint=("python", "-m", "inference_server"),
        env={**PYTHON_ENVIRONMENT, "HF_HUB_OFFLINE": "1"},
        working_dir="/app",
        binds={**python(), **packages(*RUNTIME)},
    )
    if model_dir is not None:
        table[f"local/kaito-smollm2-135m-instruct:{version}"] = Image(
            entrypoint=("python", "-m", "inference_server"),
            cmd=("--pretrained_model_name_or_path=/workspace/weights", "--port=5000"),
            env={**PYTHON_ENVIRONMENT, "HF_HUB_OFFLINE": "1"},
            working_dir="/app",
            binds={
                **python(),
                **packages(*RUNTIME),
                "/workspace/weights": model_dir,
            },
        )
    return Images(table)


def packages(*names: str) -> dict[str, Path]:
    """Packages of ours, in /app."""
    return {f"/app/{name}": HERE / name for name in names}


def python() -> dict[str, Path]:
    """The virtual environment at /venv, and the interpreter that its links point to at its own place."""
    base = Path(sys.base_prefix)
    places = {base, base.resolve(), Path(sys.executable).resolve().parent.parent}
    return {"/venv": Path(sys.prefix), **{str(place): place for place in places if not place.is_relative_to("/usr")}}
