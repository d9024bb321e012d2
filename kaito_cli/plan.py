"""``kaito plan``: what a model takes, where it fits and what it costs; without a cluster, before anything is bought."""

import json
import sys
from dataclasses import dataclass, replace
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
    from presets.catalog import Catalog, Model

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
    source: str = ""
    """Where its files come from, as the annotation says."""
    image: str = ""
    """One of the user's."""

    @property
    def own_torch(self) -> bool:
        """Whether an image is run that brings a torch of its own: KAITO's, or one of the user's."""
        return self.source == "kaito" or (bool(self.image) and self.source != "volume")


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
        asked = _question(file, model, tuning, instance_type, count, catalog=catalog)
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
    if found.fits and (told := _against(asked, chosen, catalog)):
        found = replace(found, problem=told, objects=[])
    _print(found, output)
    raise typer.Exit(0 if found.fits else DOES_NOT_FIT)


def _question(file: str, model: str, tuning: Wanted, instance_type: str, count: int, *, catalog: "Catalog") -> Question:
    if bool(file) == bool(model):
        raise Mistake("write either --filename FILE or --model NAME; `kaito models` lists the names")
    if file:
        return _of_manifest(_read(file), catalog)
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


def _of_manifest(manifest: dict[str, Any], catalog: "Catalog") -> Question:
    """Raises Mistake for what the operator would refuse; whether it fits is what is to be found out."""
    from kaito_operator.api.reasons import Reason
    from kaito_operator.api.validation import problems
    from kaito_operator.api.workspace import parse_workspace

    meta = {"name": "workspace", **(manifest.get("metadata") or {})}
    workspace = parse_workspace({**manifest, "metadata": meta})
    wrong = [each for each in problems(workspace, catalog=catalog) if each.reason is not Reason.DOES_NOT_FIT]
    body = workspace.body
    if wrong or body is None:
        raise Mistake("\n".join(map(str, wrong)))
    preset = body.tuning.preset if body.tuning else body.inference.preset if body.inference else None
    if preset is None:
        raise Mistake("a Workspace with a pod template of its own cannot be planned: nothing is known of its model")
    return Question(
        model=preset.name,
        method=Wanted(body.tuning.method.lower()) if body.tuning else Wanted.NO,
        instance_type=body.resource.instance_type,
        count=body.resource.count,
        buys=bool(body.resource.instance_type),
        serves=body.tuning.serve if body.tuning else True,
        source=workspace.annotations.get(MODEL_FILES, ""),
        image=(preset.preset_options.image if preset.preset_options else None) or "",
    )


def _against(asked: Question, model: "Model", catalog: "Catalog") -> str:
    """What the operator has against the machines asked for, beside their memory: as with our runtime."""
    from kaito_operator.api import machines_asked
    from kaito_operator.api.machines_asked import Asked
    from kaito_operator.api.runtime import Runtime
    from kaito_operator.api.spec import LabelSelector, Preset, PresetOptions, Resource

    options = PresetOptions(image=asked.image) if asked.image else None
    wanted = Asked(
        Preset(name=asked.model, preset_options=options),
        Resource(count=asked.count, instance_type=asked.instance_type, label_selector=LabelSelector()),
        tuned=asked.method is not Wanted.NO,
        source=asked.source,
        runtime=Runtime(),
    )
    return "; ".join(each.says for each in machines_asked.problems(wanted, model, catalog=catalog))


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
