"""What can run, and on which machines: the models under ``models/`` and the table of instance types, frozen."""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

HERE = Path(__file__).parent

EXACT = ConfigDict(extra="forbid", strict=True)
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Row = TypeVar("Row", "Model", "InstanceType")


class CatalogError(Exception):
    """The data is broken; the message names file, row and field."""


class UnknownModel(Exception):
    """There is no model of this name; ``nearest`` has the names most like it, best first."""

    def __init__(self, name: str, *, nearest: tuple[str, ...]) -> None:
        self.name = name
        self.nearest = nearest
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`kaito models` lists them"
        super().__init__(f"there is no preset {name!r}; {hint}")


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class Model:
    """One preset: what it needs and how it is served. Memory and disk in GiB."""

    name: str
    access: Literal["public", "private"]
    """Private: no image may be published, the Workspace names one."""
    image_tag: str = ""
    """The tag of KAITO 0.3.0's image; ours carry the version of this project."""
    disk_gib: Positive
    gpus: Positive
    """GPUs that one replica uses, where the machine has any."""
    total_memory_gib: Positive
    """Of all its GPUs together; of the machine's RAM where it runs on processors."""
    per_gpu_memory_gib: Count = 0
    cpu: bool = False
    """Whether it is of use without a GPU."""
    distributed: bool = False
    """Whether one replica may spread over several machines."""
    tuning: bool = False
    arguments: Mapping[str, str]
    """Of the inference server, ``--key=value``."""
    readiness_seconds: Positive = 1800
    """How long it may take from the start of the container to the first answer."""


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class InstanceType:
    """One size of virtual machine. ``gpu_memory_gib`` is of all its GPUs together."""

    name: str
    gpus: Count = 0
    gpu_model: str = ""
    gpu_memory_gib: Count = 0
    cpus: Positive
    memory_gib: Positive
    retired: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Catalog:
    """All models and instance types by their names; look-ups do not mind upper or lower case."""

    models: Mapping[str, Model]
    instance_types: Mapping[str, InstanceType]
    _models: Mapping[str, Model] = dataclasses.field(init=False, repr=False)
    _instance_types: Mapping[str, InstanceType] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_models", {name.lower(): row for name, row in self.models.items()})
        object.__setattr__(self, "_instance_types", {name.lower(): row for name, row in self.instance_types.items()})

    def model(self, name: str) -> Model:
        """The model of this name. Raises UnknownModel."""
        try:
            return self._models[name.lower()]
        except KeyError:
            raise UnknownModel(name, nearest=_nearest(name, self.models)) from None

    def instance_type(self, name: str) -> InstanceType | None:
        """The instance type of this name; None if the table does not know it, though Azure may."""
        return self._instance_types.get(name.lower())

    def like(self, instance_type: str) -> tuple[str, ...]:
        """The names of instance types most like this one, best first, at most three."""
        return _nearest(instance_type, self.instance_types)


def _nearest(name: str, known: Mapping[str, object]) -> tuple[str, ...]:
    lower = {one.lower(): one for one in known}
    return tuple(lower[close] for close in get_close_matches(name.lower(), lower, n=3, cutoff=0.6))


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalogue of this distribution, read once. Raises CatalogError."""
    return read_catalog(HERE / "models", HERE / "instance_types.yaml")


def read_catalog(models: Path, instance_types: Path) -> Catalog:
    """The catalogue of a directory of models and a table of instance types. Raises CatalogError."""
    known: dict[str, Model] = {}
    for path in sorted(models.glob("*.yaml")):
        rows = read_table(path, of=Model)
        if twice := known.keys() & rows.keys():
            raise CatalogError(f"{path.name}: {min(twice)}: another file has a model of this name")
        known |= rows
    return Catalog(models=known, instance_types=read_table(instance_types, of=InstanceType))


def read_table(path: Path, *, of: type[Row]) -> dict[str, Row]:
    """The rows of one YAML file by name. Raises CatalogError with file, row and field."""
    try:
        content = yaml.load(path.read_bytes(), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise CatalogError(f"{path.name}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CatalogError(f"{path.name}: rows by name are expected")
    return {str(name): _row(path, name, fields, of=of) for name, fields in content.items()}


def _row(path: Path, name: object, fields: object, *, of: type[Row]) -> Row:
    if not isinstance(fields, dict):
        raise CatalogError(f"{path.name}: {name}: fields by name are expected")
    try:
        return of(**{**{str(key): value for key, value in fields.items()}, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        raise CatalogError(f"{path.name}: {name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML says that keys are unique; PyYAML lets the last one win."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: list[object] = []  # YAML's keys may be lists, which no set can hold
    for key, _ in node.value:
        name = loader.construct_object(key)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice", key.start_mark)
        seen.append(name)
    return loader.construct_mapping(node)


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)
