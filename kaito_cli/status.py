"""``kaito status NAME``: the conditions as a tree, the first line says what it waits for."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from kaito_cli.ages import age
from kaito_cli.connection import Context, Kubeconfig, Namespace, Output, meant, on_cluster
from kaito_cli.formats import Format, printed
from kaito_cli.parts import Item, State

if TYPE_CHECKING:
    from kaito_cli.overview import Overview
    from kaito_operator.kube.client import Kube

SIGNS = {State.DONE: ("✓", "green"), State.WAITING: ("…", "yellow"), State.FAILED: ("✗", "red")}
BETWEEN_LOOKS = 1.0


def mount(kaito: typer.Typer) -> None:
    """Adds ``status`` to the command line."""
    kaito.command("status")(status)


def status(
    name: Annotated[str, typer.Argument(help="The Workspace.")],
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Output = Format.TEXT,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow until it is ready.")] = False,
) -> None:
    """Say how far a Workspace is and what it waits for. Exit code 0 when it is ready, 1 when not."""
    space = meant(namespace, kubeconfig=kubeconfig, context=context)

    async def work(kube: "Kube") -> "Overview":
        return await (_follow if watch and output is Format.TEXT else _once)(kube, namespace=space, name=name)

    found = on_cluster(work, kubeconfig=kubeconfig, context=context)
    if output is not Format.TEXT:
        typer.echo(printed(asdict(found), output))
    elif not watch:
        Console(highlight=False).print(rendered(found, now=datetime.now(UTC)))
    raise typer.Exit(0 if found.ready else 1)


async def _once(kube: "Kube", *, namespace: str, name: str) -> "Overview":
    from kaito_cli.look import look
    from kaito_cli.overview import overview

    return overview(await look(kube, namespace=namespace, name=name))


async def _follow(kube: "Kube", *, namespace: str, name: str) -> "Overview":
    """Redraws once a second until it is ready."""
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            found = await _once(kube, namespace=namespace, name=name)
            live.update(rendered(found, now=datetime.now(UTC)), refresh=True)
            if found.ready:
                return found
            await asyncio.sleep(BETWEEN_LOOKS)


def rendered(found: "Overview", *, now: datetime) -> RenderableType:
    """The headline over the tree."""
    tree = Tree(Text(found.headline(now=now), style="bold"))
    for part in found.tree.parts:
        _branch(tree, part, said=found.waits_for, now=now)
    return tree


def _branch(above: Tree, item: Item, *, said: str, now: datetime) -> None:
    """``said``: what the headline says, which the conditions that say the same need not say again."""
    sign, colour = SIGNS[item.state]
    line = Text.assemble((f"{sign} ", colour), item.what)
    if item.reason:
        line.append(f"  {item.reason}", style=colour if item.state is not State.DONE else "dim")
    if ago := age(item.since, now=now):
        line.append(f"  {ago}", style="dim")
    if item.message not in ("", said) and item.state is not State.DONE:
        line.append(f"\n{item.message}", style="dim")
    branch = above.add(line)
    for part in item.parts:
        _branch(branch, part, said=said, now=now)
