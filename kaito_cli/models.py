"""``kaito models [NAME]``: what can run, on what, and what that costs; without a cluster."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaito_cli.connection import Output
from kaito_cli.find import NoSuchModel, find
from kaito_cli.formats import Format
from kaito_cli.money import CloudOption, Offline, Prices, Region, Spot, prices

if TYPE_CHECKING:
    from presets.catalog import Catalog, Model
    from presets.prices.price import Cloud

GIB = 1 << 30
WIDE = 200
"""Columns where no terminal says how many there are: nothing is cut off in a pipe."""
HEADINGS = ("NAME", "PARAMETERS", "WEIGHTS", "CONTEXT", "LICENSE", "GATED", "TUNING", "CHEAPEST", "AN HOUR")
NUMBERS = ("PARAMETERS", "WEIGHTS", "CONTEXT", "AN HOUR")


def mount(kaito: typer.Typer) -> None:
    """Adds ``models`` to the command line."""
    kaito.command("models")(models)


def models(
    name: Annotated[str, typer.Argument(help="All that is known of one model; org/name of the Hub too.")] = "",
    fits: Annotated[str, typer.Option("--fits", help="Only models that fit on this instance type.")] = "",
    max_price: Annotated[float, typer.Option("--max-price", min=0, help="Only models served for so much an hour.")] = 0,
    cloud: CloudOption = "azure",
    region: Region = "",
    output: Output = Format.TEXT,
    *,
    tuning: Annotated[bool, typer.Option("--tuning", help="Only models that can be tuned.")] = False,
    spot: Spot = False,
    offline: Offline = False,
) -> None:
    """List the models of the catalogue, or say all of one."""
    from presets.catalog import load_catalog

    catalog, known = load_catalog(), prices(cloud, region, spot=spot, offline=offline)
    try:
        found = [find(name, catalog, offline=offline)] if name else _wanted(catalog, fits, tuning=tuning)
    except NoSuchModel as unknown:
        sys.stderr.write(f"{unknown}\n")
        raise typer.Exit(1) from None
    rows = [_row(model, catalog, known, cloud) for model in found]
    rows = [row for row in rows if not max_price or (row["hourly"] is not None and row["hourly"] <= max_price)]
    if known.remark:
        sys.stderr.write(f"{known.remark}\n")
    if output is Format.JSON:
        typer.echo(json.dumps(rows[0] if name and rows else rows, indent=2))
    elif name and rows:
        _told(rows[0])
    else:
        _listed(rows)


def _wanted(catalog: "Catalog", size_name: str, *, tuning: bool) -> list["Model"]:
    from presets.fit import newer, problems, too_old

    found = [model for model in catalog.models.values() if model.tuning or not tuning]
    if not size_name:
        return sorted(found, key=lambda model: model.parameters)
    size = catalog.instance_type(size_name)
    if size is None:
        near = " or ".join(catalog.like(size_name))
        raise typer.BadParameter(
            f"there is no instance type {size_name!r}" + (f"; did you mean {near}?" if near else ""),
            param_hint="--fits",
        )
    if told := too_old(size, catalog=catalog):
        instead = " or ".join(newer(size, catalog=catalog))
        raise typer.BadParameter(f"{told}; take {instead}", param_hint="--fits")
    fitting = [model for model in found if not problems(model, size, 1, catalog=catalog)]
    return sorted(fitting, key=lambda model: model.parameters)


def _row(model: "Model", catalog: "Catalog", known: Prices, cloud: "Cloud") -> dict[str, Any]:
    """What is told of a model: its facts, and the cheapest machine it fits on."""
    from presets.advice import cheapest, offers
    from presets.estimate import Load

    load = Load(context=min(2048, model.architecture.context))
    best = cheapest(offers(model, load, catalog=catalog, prices=known.by_size, cloud=cloud))
    price = best[0].price if best else None
    return {
        "name": model.name,
        "hub": model.hub,
        "aliases": list(model.aliases),
        "license": model.license,
        "gated": model.gated,
        "parameters": model.parameters,
        "activeParameters": model.active_parameters,
        "dtype": model.quantisation or model.dtype,
        "weightsGiB": round(model.file_bytes / GIB, 1),
        "memoryGiB": model.total_memory_gib,
        "context": model.architecture.context,
        "attention": model.architecture.attention,
        "chat": model.chat,
        "cpu": model.cpu,
        "tuning": model.tuning,
        "targetModules": list(model.target_modules),
        "instanceTypes": [offer.size.name for offer in best],
        "hourly": round(price.hourly, 4) if price else None,
        "price": {**asdict(price), "as_of": price.as_of.isoformat()} if price else None,
    }


def _listed(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            _billions(row["parameters"]),
            f"{row['weightsGiB']:.1f} GiB",
            str(row["context"]),
            row["license"],
            _yes(row["gated"]),
            _yes(row["tuning"]),
            row["instanceTypes"][0] if row["instanceTypes"] else "none on one machine",
            _money(row["price"]),
        )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    console.print(table)
    if dated := next((row["price"] for row in rows if row["price"]), None):
        console.print(f"prices: {dated['currency']} in {dated['region']}, {dated['as_of']}", style="dim")


def _told(row: dict[str, Any]) -> None:
    from rich.console import Console

    facts = {
        "on the Hub": row["hub"] + (" (gated: agree to its terms there)" if row["gated"] else ""),
        "also called": ", ".join(row["aliases"]),
        "license": row["license"],
        "parameters": _parameters(row),
        "weights": f"{row['weightsGiB']:.1f} GiB ({row['dtype']})",
        "context": f"{row['context']} tokens, {row['attention']}",
        "served with": f"{row['memoryGiB']} GiB at least" + (", also without a GPU" if row["cpu"] else ""),
        "tuned": f"yes, beside {', '.join(row['targetModules'])}" if row["tuning"] else "no",
        "cheapest": ", ".join(row["instanceTypes"]) or "none on one machine",
        "an hour": _money(row["price"])
        + (f" ({row['price']['region']}, {row['price']['as_of']})" if row["price"] else ""),
    }
    console = Console(highlight=False, soft_wrap=True)
    console.print(row["name"], style="bold")
    for what, told in facts.items():
        if told:
            console.print(f"  {what:12} {told}")
    console.print(f"  what it takes: kaito plan --model {row['name']}", style="dim")


def _parameters(row: dict[str, Any]) -> str:
    active = (
        f", {_billions(row['activeParameters'])} for each token"
        if row["parameters"] > 1.5 * row["activeParameters"]
        else ""
    )
    return _billions(row["parameters"]) + active


def _yes(so: bool) -> str:
    return "yes" if so else "no"


def _billions(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"


def _money(price: dict[str, Any] | None) -> str:
    return f"{price['hourly']:.2f} {price['currency']}" if price else "unknown"
