"""A proposal for people: memory as bars against the card, then room, price, alternatives and objects."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kaito_cli.proposal import Choice, Proposal
from presets.estimate import GIB

BAR = 36
"""Columns of a bar that is as long as the card is large."""
COLOURS = {"weights": "blue", "KV cache": "cyan", "activations": "magenta", "overhead": "yellow"}


def rendered(found: Proposal) -> None:
    """Prints it."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    model = found.model
    console.print(Text(model.name, style="bold").append(f"  {_facts(found)}", style="dim"))
    console.print(f"{found.what}{_where(found)}\n")
    for line in bars(found):
        console.print(line)
    _verdict(console, found)
    _start(console, found)
    _money(console, found)
    _choices(console, "cheapest", found.cheapest)
    _choices(console, "fastest", found.fastest)
    if found.objects:
        console.print(f"creates     {', '.join(found.objects)}")


def bars(found: Proposal) -> list[Text]:
    """One line for each part: as long as its share of the card; what goes beyond is cut off with an arrow."""
    lines = []
    for name, size in found.parts.items():
        length = round(BAR * size / found.room) if found.room else 0
        bar = "█" * min(length, BAR) + ("→" if length > BAR else "")
        lines.append(
            Text(f"{name:12}")
            .append(f"{bar or '▏':{BAR + 1}}", style=COLOURS.get(name, "green"))
            .append(f"{size:8.2f} GiB")
        )
    return lines


def _facts(found: Proposal) -> str:
    model = found.model
    kind = model.quantisation or model.dtype
    return f"{model.parameters / 1e9:.1f} B parameters, {kind}, {model.architecture.attention}, {model.license}"


def _where(found: Proposal) -> str:
    if found.size is None:
        return ""
    machines = f"{found.machines} × " if found.machines > 1 else ""
    if not found.size.gpus:
        return f" on {machines}{found.size.name} ({found.size.cpus} CPUs, {found.size.memory_gib} GiB)"
    return f" on {machines}{found.size.name} ({found.size.gpus} × {found.size.gpu_model}, {found.room:.1f} GiB each)"


def _verdict(console: Console, found: Proposal) -> None:
    if found.size is not None:
        console.print(f"{'':12}{sum(found.parts.values()):.1f} of {found.room:.1f} GiB")
    if found.fits:
        console.print(
            Text("fits", style="green").append(
                f"        room for {found.spare}" if found.spare else "", style="default"
            )
        )
        return
    console.print(Text("does not fit", style="red").append(f": {found.problem}", style="default"))
    if found.cure:
        console.print(f"instead     {found.cure}")


def _start(console: Console, found: Proposal) -> None:
    """Of a model that fits; how long the machine itself takes to come, nobody can say beforehand."""
    if not found.fits or found.loading is None:
        return
    size = found.model.file_bytes / GIB
    pull, load = found.loading.pull / 60, found.loading.load / 60
    console.print(
        f"start       about {max(1, round(pull + load))} min on a new machine: {pull:.1f} to pull the image, "
        f"{load:.1f} to load {size:,.1f} GiB"
    )


def _money(console: Console, found: Proposal) -> None:
    if found.size is None:
        return
    price = found.price
    if price is None:
        console.print("price       unknown")
        return
    kind = "spot, " if price.spot else ""
    console.print(
        f"price       {price.hourly:.2f} {price.currency} an hour, {price.monthly:,.0f} a month "
        f"({kind}{price.region}, {price.as_of:%Y-%m-%d})"
    )


def _choices(console: Console, title: str, choices: Sequence[Choice]) -> None:
    """One line for each machine; nothing where there is none."""
    for number, choice in enumerate(choices):
        price = f"{choice.price.hourly:.2f} {choice.price.currency} an hour" if choice.price else "price unknown"
        speed = f", at most {choice.tokens_per_second:.0f} tokens/s" if choice.tokens_per_second else ""
        speed = f", without a GPU: {choice.cpus} CPUs" if choice.cpus else speed
        console.print(f"{title if not number else '':12}{choice.size:28} {price}{speed}")
