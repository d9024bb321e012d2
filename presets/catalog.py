"""What can run, and on which machines: the models under ``models/`` and the table of instance types, frozen."""

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from presets.prices.price import Price
from presets.rows import Gpu as Gpu
from presets.rows import InstanceType as InstanceType
from presets.rows import Model as Model

HERE = Path(__file__).parent
ALIKE = 0.05
"""How much less alike than the nearest a name may be and still be offered."""

Row = TypeVar("Row", Model, InstanceType, Gpu)


class CatalogError(Exception):
    """The data is broken; the message names file, row and field."""


class UnknownModel(Exception):
    """There is no model of this name; ``nearest`` has the names most like it, best first."""

    def __init__(self, name: str, *, nearest: tuple[str, ...]) -> None:
        self.name = name
        self.nearest = nearest
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`kaito models` lists them"
        super().__init__(f"there is no preset {name!r}; {hint}")


@dataclasses.dataclass(frozen=True, slots=True)
class Catalog:
    """All models and instance types by their names; look-ups do not mind upper or lower case."""

    models: Mapping[str, Model]
    instance_types: Mapping[str, InstanceType]
    gpus: Mapping[str, Gpu]
    prices: Mapping[str, Price] = dataclasses.field(default_factory=dict)
    """Of a machine for an hour, by instance type in lower case; what is not there is not known."""
    _models: Mapping[str, Model] = dataclasses.field(init=False, repr=False)
    _instance_types: Mapping[str, InstanceType] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_models", {name.lower(): row for row in self.models.values() for name in _names(row)})
        object.__setattr__(self, "_instance_types", {name.lower(): row for name, row in self.instance_types.items()})

    def model(self, name: str) -> Model:
        """The model of this name, alias or Hub id. Raises UnknownModel."""
        try:
            return self._models[name.lower()]
        except KeyError:
            known = [called for model in self.models.values() for called in (model.name, *model.aliases)]
            raise UnknownModel(name, nearest=_nearest(name, known)) from None

    def with_model(self, model: Model) -> "Catalog":
        """The catalogue with one model more."""
        return dataclasses.replace(self, models={**self.models, model.name: model})

    def gpu(self, size: InstanceType) -> Gpu | None:
        """The card of a machine; None if it has none."""
        return self.gpus[size.gpu_model] if size.gpu_model else None

    def gpu_bytes(self, size: InstanceType) -> int:
        """What a program can have of each GPU of a machine; 0 if it has none. A part of a card has that part of it."""
        card = self.gpu(size)
        if card is None:
            return 0
        of_card = min(1.0, size.gpu_memory_gib / (size.gpus * card.memory_gib))
        return int((card.memory_mib << 20) * of_card)

    def price(self, size: InstanceType) -> Price | None:
        """What a machine of this size costs; None if that is not known."""
        return self.prices.get(size.name.lower())

    def with_prices(self, names: Iterable[str]) -> str:
        """Sizes in words, each with its price where it is known."""
        priced = ((name, self.prices.get(name.lower())) for name in names)
        return ", ".join(
            f"{name} ({price.hourly:.2f} {price.currency} an hour)" if price else name for name, price in priced
        )

    def instance_type(self, name: str) -> InstanceType | None:
        """The instance type of this name; None if the table does not know it, though Azure may."""
        return self._instance_types.get(name.lower())

    def tunable_like(self, name: str) -> tuple[str, ...]:
        """The names of models most like this one that can be tuned: first those it is a variant of."""
        able = [each.name for each in self.models.values() if each.tuning]
        return tuple(base for base in able if name.lower().startswith(base.lower())) or _nearest(name, able)

    def like(self, instance_type: str) -> tuple[str, ...]:
        """The names of instance types most like this one, best first, at most three."""
        return _nearest(instance_type, (size.name for size in self.instance_types.values() if not size.retired))


def _nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """At most three names: those that begin so, else those about as near as the nearest; of a family whose names differ
    by a digit that is the one meant."""
    lower = {one.lower(): one for one in known}
    if begun := [one for one in sorted(lower, key=len) if one.startswith(name.lower())]:
        return tuple(lower[one] for one in begun[:3])
    close = get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    likeness = [SequenceMatcher(None, each, name.lower()).ratio() for each in close]
    return tuple(lower[each] for each, like in zip(close, likeness, strict=True) if like >= likeness[0] - ALIKE)


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalogue of this distribution, read once. Raises CatalogError."""
    return read_catalog(HERE / "models", HERE / "instance_types.yaml", HERE / "gpus.yaml")


def read_catalog(models: Path, instance_types: Path, gpus: Path) -> Catalog:
    """The catalogue of a directory of models and tables of instance types and cards. Raises CatalogError."""
    known: dict[str, Model] = {}
    for path in sorted(models.glob("*.yaml")):
        rows = read_table(path, of=Model)
        if twice := known.keys() & rows.keys():
            raise CatalogError(f"{path.name}: {min(twice)}: another file has a model of this name")
        known |= rows
    _check_names(known.values())
    cards, sizes = read_table(gpus, of=Gpu), read_table(instance_types, of=InstanceType)
    for size in sizes.values():
        if size.gpu_model and size.gpu_model not in cards:
            raise CatalogError(f"{instance_types.name}: {size.name}.gpu_model: {gpus.name} has no {size.gpu_model}")
    return Catalog(models=known, instance_types=sizes, gpus=cards)


def _names(model: Model) -> tuple[str, ...]:
    """All names a model is found by."""
    return (model.name, model.hub, *model.aliases)


def _check_names(models: Iterable[Model]) -> None:
    owners: dict[str, str] = {}
    for model in models:
        for name in _names(model):
            if owners.setdefault(name.lower(), model.name) != model.name:
                raise CatalogError(f"{model.name} and {owners[name.lower()]} are both called {name}")


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


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""With libyaml the catalogue is read in a tenth of the time; not every build of PyYAML has it."""


class _UniqueKeys(_LOADER):  # type: ignore[misc]  # chosen above
    """YAML says that keys are unique; PyYAML lets the last one win."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: list[object] = []  # YAML's keys may be lists, which no set can hold
    for key, _ in node.value:
        name = loader.construct_object(key)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice", key.start_mark)
        seen.append(name)
    found: dict[Any, Any] = loader.construct_mapping(node)
    return found


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)
