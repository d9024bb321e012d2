"""``kaito plan``: what a model takes, where it fits and what it costs; without a cluster, before anything is bought."""

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaito_cli.connection import Output
from kaito_cli.find import NoSuchModel, find
from kaito_cli.formats import Format, printed
from kaito_cli.manifest import MODEL_FILES
from kaito_cli.money import CloudOption, Offline, Region, Spot, prices

if TYPE_CHECKING:
    from kaito_cli.proposal import Proposal
    from presets.catalog import Catalog

SHORT = 8192
"""Tokens of a conversation where nobody says how many."""
DOES_NOT_FIT = 2
GIB = 1 << 30


class Wanted(StrEnum):
    """Whether it is to be tuned, and how."""

    NO = "no"
    LORA = "lora"
    QLORA = "qlora"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, out of a manifest or the command line."""

    model: str
    method: Wanted = Wanted.NO
    instance_type: str = ""
    count: int = 1
    buys: bool = True
    """False on nodes that are there already."""
    serves: bool = True
    """Whether what was tuned is served afterwards."""
    own_torch: bool = False
    """Whether an image is run that brings a torch of its own: KAITO's, or one of the user's."""


class Mistake(Exception):
    """The question makes no sense; one line, exit code 1."""


def mount(kaito: typer.Typer) -> None:
    """Adds ``plan`` to the command line."""
    kaito.command("plan")(plan)


def plan(
    file: Annotated[str, typer.Option("--filename", "-f", help="A Workspace manifest; - is standard input.")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="A name of `kaito models`, or org/name of the Hub.")] = "",
    tuning: Annotated[Wanted, typer.Option("--tuning", help="Tune it instead of serving it.")] = Wanted.NO,
    instance_type: Annotated[
        str, typer.Option("--instance-type", "-t", help="The machine; the cheapest if none.")
    ] = "",
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="How many machines.")] = 1,
    context: Annotated[int, typer.Option("--context", min=0, max=10_000_000, help="Tokens of a conversation.")] = 0,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=65_536, help="Conversations at once.")] = 1,
    cloud: CloudOption = "azure",
    region: Region = "",
    output: Output = Format.TEXT,
    *,
    spot: Spot = False,
    offline: Offline = False,
) -> None:
    """Say what a model takes, where it fits and what that costs. Exit code 2 when it does not fit."""
    from kaito_cli.proposal import propose, proposed_tuning
    from presets.catalog import load_catalog

    catalog = load_catalog()
    try:
        asked = _question(file, model, tuning, instance_type, count)
        chosen = find(asked.model, catalog, offline=offline)
        _check_size(asked.instance_type, catalog)
    except (Mistake, NoSuchModel) as mistake:
        sys.stderr.write(f"{mistake}\n")
        raise typer.Exit(1) from None
    known = prices(cloud, region, spot=spot, offline=offline)
    if known.remark:
        sys.stderr.write(f"{known.remark}\n")
    context = context or min(SHORT, chosen.architecture.context)
    if asked.method is not Wanted.NO:
        found = proposed_tuning(chosen, asked, context, catalog=catalog, prices=known.by_size, cloud=cloud)
    else:
        found = propose(chosen, asked, context, concurrency, catalog=catalog, prices=known.by_size, cloud=cloud)
    _print(found, output)
    raise typer.Exit(0 if found.fits else DOES_NOT_FIT)


def _question(file: str, model: str, tuning: Wanted, instance_type: str, count: int) -> Question:
    if bool(file) == bool(model):
        raise Mistake("write either --filename FILE or --model NAME; `kaito models` lists the names")
    if file:
        return _of_manifest(_read(file))
    return Question(model=model, method=tuning, instance_type=instance_type, count=count)


def _read(file: str) -> dict[str, Any]:
    """The first Workspace of a file."""
    import yaml

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        objects = [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error
    except yaml.YAMLError as error:
        raise Mistake(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    for each in objects:
        if each.get("kind") == "Workspace":
            return each
    raise Mistake(f"{file} holds no Workspace")


def _of_manifest(manifest: dict[str, Any]) -> Question:
    from pydantic import ValidationError

    from kaito_operator.api.workspace import WorkspaceBody

    try:
        body = WorkspaceBody.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        raise Mistake(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    method, serves = Wanted.NO, True
    if body.tuning is not None:
        preset, method, serves = body.tuning.preset, Wanted(body.tuning.method.lower()), body.tuning.serve
    elif body.inference is not None and body.inference.preset is not None:
        preset = body.inference.preset
    else:
        raise Mistake("a Workspace with a pod template of its own cannot be planned: nothing is known of its model")
    size, options = body.resource.instance_type, preset.preset_options
    source = ((manifest.get("metadata") or {}).get("annotations") or {}).get(MODEL_FILES, "")
    return Question(
        model=preset.name,
        method=method,
        instance_type=size,
        count=body.resource.count,
        buys=bool(size),
        serves=serves,
        own_torch=source == "kaito" or (bool(options and options.image) and source != "volume"),
    )


def _check_size(name: str, catalog: "Catalog") -> None:
    if name and catalog.instance_type(name) is None:
        near = " or ".join(catalog.like(name))
        raise Mistake(f"there is no instance type {name!r}" + (f"; did you mean {near}?" if near else ""))


def _print(found: "Proposal", output: Format) -> None:
    if output is Format.TEXT:
        from kaito_cli.bars import rendered

        rendered(found)
    else:
        typer.echo(printed(json.loads(json.dumps(found.as_json())), output))
